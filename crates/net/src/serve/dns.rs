use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use inn_domain::network::Attachment;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{Segment, client, lock, socket};
use crate::dns::upstream::{ask, write_message};
use crate::dns::{
    Cache, Decision, Question, Resolved, Resolvers, Verdict, decide, error_reply, judge, truncated,
};
use crate::rate::{Limit, Rate};

const PORT: u16 = 53;

/// A page with many names asks for some hundred at once.
const LIMIT: Limit = Limit { burst: 500, each: Duration::from_millis(5) };

/// What a network's VMs may have under way, by each protocol: each takes a
/// socket and some KiB.
const UNDER_WAY: usize = 256;

/// The part of it that one VM may take, so that others get on.
const UNDER_WAY_EACH: usize = 32;

/// What a request over TCP may be long, and how long one may take.
const LONGEST: usize = 4096;
const IDLE: Duration = Duration::from_secs(10);

/// Of one connection.
const REQUESTS: usize = 128;

/// How long an answer waits for the tables to know of it.
const APPLIED: Duration = Duration::from_secs(1);

/// What all networks' servers share.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) resolvers: Mutex<Resolvers>,
    pub(super) cache: Mutex<Cache>,
    pub(super) resolved: mpsc::Sender<Resolved>,
}

pub(super) async fn udp(segment: Segment, ip: IpAddr, names: Arc<Names>) -> io::Error {
    serve_udp(&segment, ip, &names).await.unwrap_or_else(|error| error)
}

async fn serve_udp(segment: &Segment, ip: IpAddr, names: &Arc<Names>) -> io::Result<io::Error> {
    let socket = Arc::new(socket::udp(&segment.place, (ip, PORT).into())?);
    segment.runs(if ip.is_ipv4() { "DNS by UDP over IPv4" } else { "DNS by UDP over IPv6" });
    let (mut rate, room) = (Rate::new(LIMIT), Room::new());
    let mut asked: JoinSet<()> = JoinSet::new();
    let mut buffer = [0; LONGEST];
    loop {
        let (count, from) = socket.recv_from(&mut buffer).await?;
        while asked.try_join_next().is_some() {}
        let Some((declared, network)) = segment.now() else { continue };
        let Some(client) = asker(segment, &declared, from) else { continue };
        let now = Instant::now();
        rate.forget(now);
        if !rate.allows(client.vm, now) {
            continue;
        }
        match decide(&network, &declared.attachments, client, &buffer[..count]) {
            Decision::Drop => {}
            Decision::Reply(bytes) => send(&socket, &bytes, from).await,
            Decision::Forward(question) => {
                let Some(permit) = room.take(client) else { continue };
                let (socket, names) = (Arc::clone(&socket), Arc::clone(names));
                let (segment, client) = (segment.clone(), client.clone());
                asked.spawn(async move {
                    let bytes = names.forward(&segment, &client, &question).await;
                    let fits = bytes.len() <= usize::from(question.payload);
                    let bytes = if fits { bytes } else { truncated(&question) };
                    send(&socket, &bytes, from).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, to).await {
        tracing::debug!(%to, %error, "a DNS answer was not sent");
    }
}

pub(super) async fn tcp(segment: Segment, ip: IpAddr, names: Arc<Names>) -> io::Error {
    serve_tcp(&segment, ip, &names).await.unwrap_or_else(|error| error)
}

async fn serve_tcp(segment: &Segment, ip: IpAddr, names: &Arc<Names>) -> io::Result<io::Error> {
    let listener = socket::tcp(&segment.place, (ip, PORT).into())?;
    segment.runs(if ip.is_ipv4() { "DNS by TCP over IPv4" } else { "DNS by TCP over IPv6" });
    let room = Room::new();
    let mut connections: JoinSet<()> = JoinSet::new();
    loop {
        let (stream, from) = listener.accept().await?;
        while connections.try_join_next().is_some() {}
        let Some((declared, _)) = segment.now() else { continue };
        // Whoever is not attached, or has too many, is hung up on.
        let Some(client) = asker(segment, &declared, from) else { continue };
        let Some(permit) = room.take(client) else { continue };
        let (segment, names) = (segment.clone(), Arc::clone(names));
        connections.spawn(async move {
            if let Err(error) = converse(stream, from, &segment, &names).await {
                tracing::trace!(%from, %error, "a DNS connection ended");
            }
            drop(permit);
        });
    }
}

async fn converse(
    mut stream: TcpStream,
    from: SocketAddr,
    segment: &Segment,
    names: &Names,
) -> io::Result<()> {
    for _ in 0..REQUESTS {
        let request = timeout(IDLE, read_message(&mut stream)).await??;
        // Anew for each: the VM may be gone, and its policy another.
        let Some((declared, network)) = segment.now() else { return Ok(()) };
        let Some(client) = asker(segment, &declared, from) else { return Ok(()) };
        let bytes = match decide(&network, &declared.attachments, client, &request) {
            Decision::Drop => return Ok(()),
            Decision::Reply(bytes) => bytes,
            Decision::Forward(question) => names.forward(segment, client, &question).await,
        };
        timeout(IDLE, write_message(&mut stream, &bytes)).await??;
    }
    Ok(())
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Nobody but a VM of this network is answered.
fn asker<'a>(
    segment: &Segment,
    declared: &'a inn_domain::network::Declared,
    from: SocketAddr,
) -> Option<&'a Attachment> {
    client(declared, segment.place.network, |client| match from.ip() {
        IpAddr::V4(ip) => client.ipv4 == Some(ip),
        IpAddr::V6(ip) => client.ipv6 == Some(ip),
    })
}

impl Names {
    /// The whole answer, however long.
    async fn forward(
        &self,
        segment: &Segment,
        client: &Attachment,
        question: &Question,
    ) -> Vec<u8> {
        let cached = lock(&self.cache).get(question, Instant::now());
        let known = cached.and_then(|bytes| Some((Message::from_vec(&bytes).ok()?, bytes)));
        let answered = match known {
            Some(known) => Some(known),
            None => {
                let mut servers = lock(&self.resolvers).servers(Instant::now());
                // Ourselves, by way of the host, would be a loop.
                let declared = Arc::clone(&segment.declared.borrow());
                servers.retain(|server| {
                    !declared.networks.iter().any(|network| {
                        network.gateway4().map(IpAddr::from) == Some(server.ip())
                            || network.gateway6().map(IpAddr::from) == Some(server.ip())
                    })
                });
                let answered = ask(&servers, question).await;
                if let Some((message, bytes)) = &answered {
                    lock(&self.cache).put(question, message, bytes, Instant::now());
                }
                answered
            }
        };
        let Some((message, mut bytes)) = answered else {
            return error_reply(question, ResponseCode::ServFail);
        };
        // As its policy is now, not when it asked.
        let policy = segment.now().and_then(|(declared, _)| {
            Some(self::client(&declared, client.network, |c| c.vm == client.vm)?.policy.clone())
        });
        let Some(policy) = policy else { return error_reply(question, ResponseCode::Refused) };
        match judge(&policy, &question.name, &message) {
            Verdict::Pass => {}
            Verdict::Private(ip) => {
                tracing::warn!(
                    vm = %client.vm, name = question.name, %ip,
                    "a name that a policy allows stands for an address that is not public: refused"
                );
                return error_reply(question, ResponseCode::Refused);
            }
            Verdict::Tell { rules, addresses, lifetime } => {
                for rule in rules {
                    let (applied, known) = oneshot::channel();
                    let (vm, addresses) = (client.vm, addresses.clone());
                    let told = Resolved { vm, rule, addresses, lifetime, applied };
                    let told = async {
                        self.resolved.send(told).await.ok()?;
                        known.await.ok()
                    };
                    if !matches!(timeout(APPLIED, told).await, Ok(Some(()))) {
                        tracing::warn!(%vm, rule, "the tables do not know yet what a name stands for");
                        return error_reply(question, ResponseCode::ServFail);
                    }
                }
            }
        }
        crate::dns::set_id(&mut bytes, question.id);
        bytes
    }
}

/// What a network's VMs have under way.
struct Room {
    all: Arc<Semaphore>,
    each: Mutex<std::collections::HashMap<inn_units::VmId, Arc<Semaphore>>>,
}

impl Room {
    fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(UNDER_WAY)), each: Mutex::default() }
    }

    fn take(&self, client: &Attachment) -> Option<[OwnedSemaphorePermit; 2]> {
        let mut each = lock(&self.each);
        // Those that hold nothing are as new.
        each.retain(|_, own| own.available_permits() < UNDER_WAY_EACH);
        let own = each.entry(client.vm).or_insert_with(|| Arc::new(Semaphore::new(UNDER_WAY_EACH)));
        let own = Arc::clone(own).try_acquire_owned().ok()?;
        Some([own, Arc::clone(&self.all).try_acquire_owned().ok()?])
    }
}
