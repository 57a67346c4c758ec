//! A host and a VM, each a network namespace, with a cable between them whose
//! host's end has the name of the VM's tap; and a resolver of the world's.

#![expect(clippy::disallowed_methods, reason = "a guest's programs are somebody else's")]

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{RData, Record};
use inn_domain::network::Declared;
use inn_host::netns::Netns;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Problems, Servers};
use crate::Resolved;
use crate::link::Links;
use crate::testing::{client, declared};
use crate::{nft, table};

/// Far beyond what anything here takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the host has our tables, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tables {
    Ours,
    /// To see what the servers refuse by themselves.
    None,
}

/// Which rule, and the addresses that it was told of.
type Told = Arc<Mutex<Vec<(usize, Vec<String>)>>>;

pub(super) struct Ground {
    pub(super) vm: Netns,
    pub(super) dir: tempfile::TempDir,
    pub(super) declared: watch::Sender<Arc<Declared>>,
    pub(super) problems: watch::Receiver<Problems>,
    /// What the tables were told of names.
    pub(super) told: Told,
    /// What the world's resolver was asked.
    pub(super) asked: Arc<Mutex<Vec<String>>>,
    stop: Option<oneshot::Sender<()>>,
    host: Option<JoinHandle<()>>,
}

impl Ground {
    /// Says aloud why a test cannot run here.
    pub(super) fn lay(
        test: &str,
        programs: &[&str],
        tables: Tables,
        change: fn(&mut Declared),
    ) -> Option<Self> {
        for program in programs {
            if let Err(why) = Command::new(program).arg("--help").output() {
                println!("SKIPPED {test}: {program}: {why}");
                return None;
            }
        }
        let made = Netns::make().and_then(|host| Ok((host, Netns::make()?)));
        let (host, vm) =
            made.inspect_err(|why| println!("SKIPPED {test}: no network namespace: {why}")).ok()?;
        let dir = tempfile::tempdir().unwrap();
        let configuration = dir.path().join("resolv.conf");
        std::fs::write(&configuration, "nameserver 127.0.0.1\n").unwrap();
        let mut wanted = declared();
        change(&mut wanted);
        let (declared, watched) = watch::channel(Arc::new(wanted));
        let (stop, stopped) = oneshot::channel();
        let (ready, problems) = std::sync::mpsc::sync_channel(1);
        let (told, asked) = (Arc::default(), Arc::default());
        let everything = Host {
            declared: watched,
            tables,
            configuration,
            told: Arc::clone(&told),
            asked: Arc::clone(&asked),
            stopped,
            ready,
        };
        let vm_namespace = vm.path();
        let host = std::thread::spawn(move || host.run(|| everything.live(&vm_namespace)));
        let problems = problems.recv_timeout(PATIENCE).expect("the host is up");
        let ground =
            Self { vm, dir, declared, problems, told, asked, stop: Some(stop), host: Some(host) };
        ground.vm.run(|| {
            // The link's own address at once; nobody else can have it.
            std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0").unwrap();
            ip("link set lo up");
            ip("link set eth0 up");
        });
        // The kernel gives it that by and by, and dhclient does not wait.
        ground.until("ip", "-6 address show dev eth0 scope link", |told| {
            told.contains("fe80:") && !told.contains("tentative")
        });
        Some(ground)
    }

    /// Starts a program of the guest's.
    pub(super) fn start(&self, program: &str, args: &[String]) -> Child {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        self.vm.run(move || command.spawn().unwrap())
    }

    pub(super) fn output(&self, program: &str, args: &str) -> Output {
        let mut command = Command::new(program);
        command.args(args.split_whitespace());
        self.vm.run(move || command.output().unwrap())
    }

    /// What a program prints, once it is what it should be.
    pub(super) fn until(&self, program: &str, args: &str, right: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.output(program, args);
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if right(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "{program} {args}: {text}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    pub(super) fn dig(&self, args: &str) -> String {
        let output = self.output("dig", &format!("+time=5 +tries=1 {args}"));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// A script for DHCP clients that writes its environment down and gives the
    /// card its address.
    pub(super) fn script(&self) -> (PathBuf, PathBuf) {
        let (script, told) = (self.dir.path().join("script"), self.dir.path().join("told"));
        let text = format!(
            "#!/bin/sh\n\
             [ -n \"$1\" ] && reason=$1\n\
             case $reason in bound|renew|BOUND|REBOOT|RENEW|BOUND6|REBIND6)\n\
             env >'{told}.new'; echo reason=$reason >>'{told}.new'\n\
             mv '{told}.new' '{told}';; esac\n\
             case $reason in bound) ip addr replace $ip/24 dev $interface;; esac\n",
            told = told.display()
        );
        std::fs::write(&script, text).unwrap();
        let done = Command::new("chmod").arg("755").arg(&script).status().unwrap();
        assert!(done.success());
        (script, told)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(host) = self.host.take() {
            // A panic of its own was told already.
            let _ = host.join();
        }
    }
}

/// The environment that a script wrote down, once it has.
pub(super) fn environment(told: &Path, client: &mut Child) -> BTreeMap<String, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(text) = std::fs::read_to_string(told) {
            let pair = |line: &str| {
                line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))
            };
            return text.lines().filter_map(pair).collect();
        }
        if Instant::now() > deadline {
            let _ = client.kill();
            let mut said = String::new();
            let stderr = client.stderr.as_mut().unwrap();
            let _ = io::Read::read_to_string(stderr, &mut said);
            panic!("the client got no lease: {said}");
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// In the calling thread's namespace.
pub(super) fn ip(args: &str) {
    let done = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(done.status.success(), "ip {args}: {}", String::from_utf8_lossy(&done.stderr));
}

/// All that happens on the host's side.
struct Host {
    tables: Tables,
    declared: watch::Receiver<Arc<Declared>>,
    configuration: PathBuf,
    told: Told,
    asked: Arc<Mutex<Vec<String>>>,
    stopped: oneshot::Receiver<()>,
    ready: std::sync::mpsc::SyncSender<watch::Receiver<Problems>>,
}

impl Host {
    fn live(self, vm: &str) {
        ip("link set lo up");
        let one = client(2, "one");
        let mac = one.mac.map(|byte| format!("{byte:02x}")).join(":");
        let tap = one.tap();
        ip(&format!("link add {tap} type veth peer name eth0 address {mac}"));
        ip(&format!("link set eth0 netns {vm}"));
        let mut links = Links::open().unwrap();
        let declared = Arc::clone(&self.declared.borrow());
        let done = links.converge(&declared).unwrap();
        assert!(done.failed.is_empty(), "{:?}", done.failed);
        if self.tables == Tables::Ours {
            let mut kernel = nft::Kernel::open(declared.instance.clone()).unwrap();
            kernel.reconcile(&table::tables(&declared)).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (resolved, mut names) = mpsc::channel::<Resolved>(8);
            let (servers, problems) = Servers::asking(self.declared, resolved, self.configuration);
            let told = self.told;
            tokio::spawn(async move {
                while let Some(name) = names.recv().await {
                    let addresses = name.addresses.iter().map(ToString::to_string).collect();
                    told.lock().unwrap().push((name.rule, addresses));
                    let _ = name.applied.send(());
                }
            });
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).await.unwrap();
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 53)).await.unwrap();
            let asked = Arc::clone(&self.asked);
            tokio::spawn(async move {
                let mut buffer = [0; 1500];
                loop {
                    let (count, from) = udp.recv_from(&mut buffer).await.unwrap();
                    let reply = world(&buffer[..count], true, &asked);
                    udp.send_to(&reply, from).await.unwrap();
                }
            });
            let asked = self.asked;
            tokio::spawn(async move {
                loop {
                    let (mut stream, _) = tcp.accept().await.unwrap();
                    let mut request = vec![0; usize::from(stream.read_u16().await.unwrap())];
                    stream.read_exact(&mut request).await.unwrap();
                    let reply = world(&request, false, &asked);
                    stream.write_u16(u16::try_from(reply.len()).unwrap()).await.unwrap();
                    stream.write_all(&reply).await.unwrap();
                }
            });
            self.ready.send(problems).unwrap();
            tokio::select! {
                // The test is over either way.
                ended = servers.run() => panic!("the servers ended: {ended:?}"),
                _ = self.stopped => {}
            }
        });
    }
}

/// A resolver that knows four names.
fn world(request: &[u8], by_udp: bool, asked: &Mutex<Vec<String>>) -> Vec<u8> {
    let mut message = Message::from_vec(request).unwrap();
    let query = message.queries[0].clone();
    let name = query.name().to_ascii();
    asked.lock().unwrap().push(format!("{} {name}", if by_udp { "udp" } else { "tcp" }));
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    let mut answer = |data| {
        message.answers.push(Record::from_rdata(query.name().clone(), 300, data));
    };
    match name.trim_end_matches('.') {
        "example.com" | "allowed.example" => answer(RData::A(A::new(93, 184, 216, 34))),
        "rebind.example" => answer(RData::A(A::new(10, 0, 0, 5))),
        "big.example" if by_udp => message.metadata.truncation = true,
        "big.example" => {
            let long = || "x".repeat(200);
            answer(RData::TXT(TXT::new((0..15).map(|_| long()).collect())));
        }
        _ => message.metadata.response_code = ResponseCode::NXDomain,
    }
    message.to_vec().unwrap()
}
