use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use inn_units::VmId;
use rustix::net::sockopt::{
    set_ipv6_multicast_hops, set_ipv6_multicast_if, set_ipv6_multicast_loop, set_ipv6_unicast_hops,
};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

use super::{Segment, socket};
use crate::dhcp::v6::by_link_local;
use crate::ra::{INTERVAL, SOLICITATION, advertisement};
use crate::rate::{Limit, Rate};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// What crosses no router (RFC 4861, 6.1.1).
const HOPS: u8 = 255;

/// A guest asks three times, four seconds apart (RFC 4861, 10).
const LIMIT: Limit = Limit { burst: 10, each: Duration::from_secs(1) };

/// What all share that have no address yet, or one of their own choice.
const NOBODY: VmId = VmId::from_bytes([0; 5]);

pub(super) async fn advertise(segment: Segment) -> io::Error {
    run(&segment).await.unwrap_or_else(|error| error)
}

async fn run(segment: &Segment) -> io::Result<io::Error> {
    let index = segment.place.index;
    let socket = socket::icmp6(&segment.place, SOLICITATION)?;
    socket.join_multicast_v6(&ALL_ROUTERS, index)?;
    set_ipv6_multicast_if(&socket, index)?;
    set_ipv6_multicast_loop(&socket, false)?;
    set_ipv6_multicast_hops(&socket, HOPS.into())?;
    set_ipv6_unicast_hops(&socket, Some(HOPS))?;
    segment.runs("router advertisements");
    let mut rate = Rate::new(LIMIT);
    let mut next = Instant::now();
    let mut said = None;
    let mut declared = segment.declared.clone();
    // A solicitation is eight bytes and an option.
    let mut buffer = [0; 128];
    loop {
        let Some((now, network)) = segment.now() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let message = advertisement(&network);
        if said != message {
            (said, next) = (message, Instant::now());
        }
        let Some(message) = &said else { return Err(io::ErrorKind::NotFound.into()) };
        tokio::select! {
            // A datagram is read whole, or stays.
            received = socket.recv_from(&mut buffer) => {
                let (count, from) = received?;
                let (SocketAddr::V6(from), Some(&SOLICITATION)) = (from, buffer[..count].first())
                else { continue };
                let ip = *from.ip();
                let known = by_link_local(&now.attachments, ip).map_or(NOBODY, |client| client.vm);
                let from_link = ip.is_unspecified() || ip.is_unicast_link_local();
                let at = Instant::now();
                rate.forget(at);
                if from_link && rate.allows(known, at) {
                    let to = if ip.is_unspecified() { ALL_NODES } else { ip };
                    send(&socket, message, to, index).await;
                }
            }
            // A point in time, kept outside.
            () = sleep_until(next) => {
                next = Instant::now() + INTERVAL;
                send(&socket, message, ALL_NODES, index).await;
            }
            // Only wakes: what is declared is read above.
            changed = declared.changed() => {
                if changed.is_err() {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        }
    }
}

/// A bridge without a port has no address to send from: then nobody listens.
async fn send(socket: &UdpSocket, message: &[u8], to: Ipv6Addr, index: u32) {
    let to = SocketAddrV6::new(to, 0, 0, index);
    if let Err(error) = socket.send_to(message, SocketAddr::V6(to)).await {
        let to: IpAddr = (*to.ip()).into();
        tracing::debug!(%to, %error, "a router advertisement was not sent");
    }
}
