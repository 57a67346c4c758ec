use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use super::decide::{PAYLOAD, Question};

const PORT: u16 = 53;

/// resolv.conf(5), MAXNS.
const SERVERS: usize = 3;

/// How long a resolver has, by each protocol, before the next one is asked; a
/// guest gives up after five seconds (resolv.conf(5), `timeout`).
const PATIENCE: Duration = Duration::from_secs(2);
const ALL_PATIENCE: Duration = Duration::from_millis(4500);

/// Between two looks at whether the files have changed.
const LOOK: Duration = Duration::from_secs(1);

/// What is read of a configuration file.
const LONGEST_FILE: u64 = 64 * 1024;

const CONFIGURATION: &str = "/etc/resolv.conf";

/// Where systemd-resolved says whom it asks itself; its own address in
/// resolv.conf would be one more cache on the way.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
const STUBS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];

/// The host's resolvers, as its files say at present.
#[derive(Debug)]
pub(crate) struct Resolvers {
    configuration: PathBuf,
    behind_stub: PathBuf,
    /// What the files were when they were last read.
    known: Option<[Option<Version>; 2]>,
    looked: Option<Instant>,
    servers: Vec<SocketAddr>,
}

type Version = (SystemTime, u64);

impl Default for Resolvers {
    fn default() -> Self {
        Self::of(CONFIGURATION.into(), BEHIND_STUB.into())
    }
}

impl Resolvers {
    pub(crate) fn of(configuration: PathBuf, behind_stub: PathBuf) -> Self {
        let servers = Vec::new();
        Self { configuration, behind_stub, known: None, looked: None, servers }
    }

    /// Two looks at files in a second at most.
    pub(crate) fn servers(&mut self, now: Instant) -> Vec<SocketAddr> {
        if self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK) {
            self.looked = Some(now);
            let versions = [version(&self.configuration), version(&self.behind_stub)];
            if self.known != Some(versions) {
                self.known = Some(versions);
                self.servers = servers(&read(&self.configuration), || read(&self.behind_stub));
            }
        }
        self.servers.clone()
    }
}

fn version(path: &Path) -> Option<Version> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// A file that is not there names nobody.
fn read(path: &Path) -> String {
    let mut text = String::new();
    if let Ok(file) = fs::File::open(path) {
        use std::io::Read;
        let _as_far_as_it_is_text = file.take(LONGEST_FILE).read_to_string(&mut text);
    }
    text
}

fn servers(configuration: &str, behind_stub: impl FnOnce() -> String) -> Vec<SocketAddr> {
    let named = parse(configuration);
    if !named.is_empty() && named.iter().all(|server| STUBS.contains(&server.ip())) {
        let behind = parse(&behind_stub());
        if !behind.is_empty() {
            return behind;
        }
    }
    named
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then_some(())?;
        let word = words.next()?;
        // A link-local one with its interface: its index is looked up by name.
        if let Some((ip, interface)) = word.split_once('%') {
            let ip: Ipv6Addr = ip.parse().ok()?;
            let file = format!("/sys/class/net/{interface}/ifindex");
            let scope = fs::read_to_string(file).ok()?.trim().parse().ok()?;
            return Some(std::net::SocketAddrV6::new(ip, PORT, 0, scope).into());
        }
        Some(SocketAddr::new(word.parse().ok()?, PORT))
    };
    text.lines().filter_map(server).take(SERVERS).collect()
}

/// Asks one after the other; the last one's failure is an answer too.
pub(crate) async fn ask(servers: &[SocketAddr], question: &Question) -> Option<(Message, Vec<u8>)> {
    let asked = async {
        let mut last = None;
        for server in servers {
            match ask_one(*server, question).await {
                Ok((message, bytes)) => match message.metadata.response_code {
                    ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp => {
                        last = Some((message, bytes));
                    }
                    _ => return Some((message, bytes)),
                },
                Err(error) => tracing::debug!(%server, %error, "a resolver does not answer"),
            }
        }
        last
    };
    timeout(ALL_PATIENCE, asked).await.ok().flatten()
}

async fn ask_one(server: SocketAddr, question: &Question) -> io::Result<(Message, Vec<u8>)> {
    let answer = timeout(PATIENCE, by_udp(server, question)).await??;
    if !answer.0.metadata.truncation {
        return Ok(answer);
    }
    timeout(PATIENCE, by_tcp(server, question)).await?
}

/// From a port of the kernel's choice, with a number that nobody else knows:
/// together what a forger would have to guess (RFC 5452).
async fn by_udp(server: SocketAddr, question: &Question) -> io::Result<(Message, Vec<u8>)> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let id = fresh_id()?;
    socket.send(&question.forwarded(id)).await?;
    let mut buffer = [0; PAYLOAD as usize + 1];
    loop {
        let count = socket.recv(&mut buffer).await?;
        // What is not the answer may be a forger's attempt: the real one may
        // still come.
        if let Some(message) = question.is_answered_by(id, &buffer[..count]) {
            return Ok((message, buffer[..count].to_vec()));
        }
    }
}

async fn by_tcp(server: SocketAddr, question: &Question) -> io::Result<(Message, Vec<u8>)> {
    let mut stream = TcpStream::connect(server).await?;
    let id = fresh_id()?;
    write_message(&mut stream, &question.forwarded(id)).await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).await?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it answers something else");
    let message = question.is_answered_by(id, &bytes).ok_or_else(wrong)?;
    Ok((message, bytes))
}

/// RFC 1035, 4.2.2.
pub(crate) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidData);
    let length = u16::try_from(message.len()).map_err(too_long)?;
    let mut bytes = Vec::with_capacity(message.len() + 2);
    bytes.extend(length.to_be_bytes());
    bytes.extend(message);
    stream.write_all(&bytes).await
}

fn fresh_id() -> io::Result<u16> {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u16::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_files_say_whom_to_ask() {
        let plain = "# by hand\nsearch example\nnameserver 192.0.2.1\nnameserver 2001:db8::1 \n\
                     nameserver junk\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let all = servers(plain, || panic!("it is not asked"));
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"]);
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\n";
        let behind = servers(stub, || "nameserver 192.0.2.9\n".to_owned());
        assert_eq!(behind[0].to_string(), "192.0.2.9:53");
        let alone = servers(stub, String::new);
        assert_eq!(alone[0].to_string(), "127.0.0.53:53");
        assert!(servers("", || panic!("it is not asked")).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_changes_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
        let mut resolvers = Resolvers::of(file.clone(), dir.path().join("none"));
        let first = |resolvers: &mut Resolvers| resolvers.servers(Instant::now())[0].to_string();
        assert_eq!(first(&mut resolvers), "192.0.2.1:53");
        // Another length: a clock of whole seconds would not tell.
        fs::write(&file, "nameserver 192.0.2.222\n").unwrap();
        assert_eq!(first(&mut resolvers), "192.0.2.1:53", "not looked at all the time");
        tokio::time::advance(LOOK).await;
        assert_eq!(first(&mut resolvers), "192.0.2.222:53");
        fs::remove_file(&file).unwrap();
        tokio::time::advance(LOOK).await;
        assert!(resolvers.servers(Instant::now()).is_empty());
    }
}
