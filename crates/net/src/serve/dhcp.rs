use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use dhcproto::v4::SERVER_PORT;
use inn_domain::network::Attachment;
use inn_units::VmId;
use tokio::time::Instant;

use super::{Segment, client, socket};
use crate::dhcp;
use crate::dhcp::v4::Outcome;
use crate::link::Links;
use crate::rate::{Limit, Rate};

/// A client asks twice for an address, and anew after each failure; a hundred
/// reboots in a row are a VM's own affair.
const LIMIT: Limit = Limit { burst: 20, each: Duration::from_millis(200) };

/// More than any client sends; the rest of a longer one is cut off.
const LONGEST: usize = 2048;

/// All DHCP servers and relays (RFC 8415, 7.1).
const ALL_SERVERS6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const SERVER_PORT6: u16 = 547;

/// Whose bucket those share that are not known to be anybody's.
const NOBODY: VmId = VmId::from_bytes([0; 5]);

pub(super) async fn v4(segment: Segment) -> io::Error {
    serve4(&segment).await.unwrap_or_else(|error| error)
}

async fn serve4(segment: &Segment) -> io::Result<io::Error> {
    let socket = socket::udp(&segment.place, (Ipv4Addr::UNSPECIFIED, SERVER_PORT).into())?;
    socket.set_broadcast(true)?;
    segment.runs("DHCPv4");
    let mut rate = Rate::new(LIMIT);
    let mut buffer = [0; LONGEST];
    loop {
        let (count, _) = socket.recv_from(&mut buffer).await?;
        let Some((declared, network)) = segment.now() else { continue };
        match dhcp::v4::answer(&network, &declared.attachments, &buffer[..count]) {
            Outcome::Reply { vm, to, bytes } => {
                let now = Instant::now();
                rate.forget(now);
                if rate.allows(vm, now)
                    && let Err(error) = socket.send_to(&bytes, SocketAddr::V4(to)).await
                {
                    tracing::debug!(%vm, %to, %error, "a DHCP reply was not sent");
                }
            }
            Outcome::Declined { vm } => {
                if rate.allows(vm, Instant::now()) {
                    tracing::warn!(%vm, "the VM says that another machine has its IPv4 address");
                }
            }
            Outcome::Silence(why) => tracing::trace!(why, "a DHCP request is not answered"),
        }
    }
}

pub(super) async fn v6(segment: Segment) -> io::Error {
    serve6(&segment).await.unwrap_or_else(|error| error)
}

async fn serve6(segment: &Segment) -> io::Result<io::Error> {
    let socket = socket::udp(&segment.place, (Ipv6Addr::UNSPECIFIED, SERVER_PORT6).into())?;
    socket.join_multicast_v6(&ALL_SERVERS6, segment.place.index)?;
    let mut links = Links::open()?;
    segment.runs("DHCPv6");
    let mut rate = Rate::new(LIMIT);
    let mut buffer = [0; LONGEST];
    loop {
        let (count, from) = socket.recv_from(&mut buffer).await?;
        let IpAddr::V6(ip) = from.ip() else { continue };
        let Some((declared, network)) = segment.now() else { continue };
        let now = Instant::now();
        rate.forget(now);
        let Some(client) = who(segment, &declared.attachments, ip).or_else(|| {
            // Asking the kernel costs more than an answer.
            rate.allows(NOBODY, now).then(|| by_neighbours(&mut links, segment, &declared, ip))?
        }) else {
            tracing::trace!(%ip, "a DHCPv6 request of nobody's is not answered");
            continue;
        };
        if !rate.allows(client.vm, now) {
            continue;
        }
        match dhcp::v6::answer(&network, client, &buffer[..count]) {
            Ok(bytes) => {
                if let Err(error) = socket.send_to(&bytes, from).await {
                    tracing::debug!(vm = %client.vm, %error, "a DHCPv6 reply was not sent");
                }
            }
            Err(why) => tracing::trace!(why, "a DHCPv6 request is not answered"),
        }
    }
}

fn who<'a>(segment: &Segment, clients: &'a [Attachment], ip: Ipv6Addr) -> Option<&'a Attachment> {
    let found = dhcp::v6::by_link_local(clients, ip);
    found.filter(|client| client.network == segment.place.network)
}

/// One with a link-local address of its own choice: it has asked for routers
/// before, and so the kernel knows its MAC.
fn by_neighbours<'a>(
    links: &mut Links,
    segment: &Segment,
    declared: &'a inn_domain::network::Declared,
    ip: Ipv6Addr,
) -> Option<&'a Attachment> {
    let mac = links.neighbour(segment.place.index, ip.into()).ok().flatten()?;
    client(declared, segment.place.network, |client| client.mac[..] == mac[..])
}
