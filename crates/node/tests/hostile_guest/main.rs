//! Guests that mean harm, and what they cost the node: a bounded amount of
//! memory, and no answer of another guest.
//!
//! The attackers are processes of their own, as guests are (this program, run
//! again with [`ATTACK`] set); the session and the neighbour's are in this
//! process, on as many workers as the node has.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod attack;
mod neighbour;
mod resident;

use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use inn_node::guest::{ExecSpec, GuestError, GuestSession};
use inn_units::ExecId;
use tokio::net::UnixStream;

use attack::{ALL, Attack};
use neighbour::Neighbour;
use resident::Watch;

/// Set in an attacker's process: which attack.
const ATTACK: &str = "INN_TEST_ATTACK";

/// How long each attack goes on.
const DURATION: Duration = Duration::from_secs(3);

/// What one session may take, whatever its guest does: a frame that is not
/// whole, what is queued both ways, and a window for each of the streams that
/// the test opens and does not read.
const MOST_KIB: u64 = 4 * 1024;

/// No verdict on speed: a neighbour that waits so long is locked out.
const LOCKED_OUT: Duration = Duration::from_secs(5);

fn main() {
    if let Ok(name) = std::env::var(ATTACK) {
        let attack = ALL.into_iter().find(|a| a.name() == name).expect("an attack's name");
        return attack.carry_out();
    }
    // The names that the test runners ask for (libtest's --list).
    let asks = |flag: &str| std::env::args().any(|arg| arg == flag);
    if asks("--list") {
        if !asks("--ignored") {
            println!("hostile_guests_harm_only_themselves: test");
        }
        return;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(hostile_guests_harm_only_themselves());
    println!("test result: ok. 1 passed; 0 failed");
}

async fn hostile_guests_harm_only_themselves() {
    let neighbour = Neighbour::start().await;
    // Once over all code, so that its pages count for nobody.
    neighbour.pings_for(Duration::from_millis(500)).await;
    let calm = neighbour.pings_for(Duration::from_secs(1)).await;
    println!("{:<28} {:>10} {:>10} {:>10} {:>10}", "attack", "memory", "p50", "p99", "worst");
    println!("{:<28} {:>10} {calm}", "none", "-");
    for attack in ALL {
        let watch = Watch::start();
        let attackers: Vec<Attacker> = (0..ATTACKERS).map(|_| Attacker::start(attack)).collect();
        let sessions: Vec<_> = attackers.iter().map(|a| tokio::spawn(suffer(a.stream()))).collect();
        let pings = neighbour.pings_for(DURATION).await;
        let grown = watch.most_kib();
        for session in sessions {
            session.abort();
            let _aborted = session.await;
        }
        drop(attackers);
        println!("{:<28} {grown:>6} KiB {pings}", format!("{} x{ATTACKERS}", attack.name()));
        assert!(grown <= MOST_KIB * ATTACKERS, "{} took {grown} KiB", attack.name());
        assert!(pings.worst < LOCKED_OUT, "{} locked the neighbour out: {pings}", attack.name());
        assert!(pings.count > 10, "{}: the neighbour was hardly heard", attack.name());
    }
    neighbour.session.close().await;
}

/// More than there are workers: a session that never lets go of its worker
/// would hold all of them.
const ATTACKERS: u64 = 3;

/// What a node does with a guest, again and again: a session, a request whose
/// answer nobody takes, pings.
async fn suffer(channel: std::os::unix::net::UnixStream) {
    loop {
        let stream = UnixStream::from_std(channel.try_clone().unwrap()).unwrap();
        // The attacker may never greet.
        let Ok(session) = GuestSession::establish(stream).await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let unread =
            session.exec(ExecSpec::new(ExecId::from_bytes([1; 8]), vec!["x".into()])).await;
        let list = session.list_execs();
        let over = async {
            let _whatever = tokio::join!(list, session.ping());
            session.closed().await
        };
        let _why: GuestError = over.await;
        drop(unread);
        tokio::time::sleep(RETRY).await;
    }
}

/// As the node's own between two attempts.
const RETRY: Duration = Duration::from_millis(20);

/// A process at the other end of a channel; killed when dropped.
struct Attacker {
    process: Child,
    channel: std::os::unix::net::UnixStream,
}

impl Attacker {
    #[expect(clippy::disallowed_methods, reason = "the test starts itself")]
    fn start(attack: Attack) -> Self {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .env(ATTACK, attack.name())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        Self { process, channel: ours }
    }

    fn stream(&self) -> std::os::unix::net::UnixStream {
        self.channel.try_clone().unwrap()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

/// How long the answers to pings took.
struct Pings {
    count: usize,
    p50: Duration,
    p99: Duration,
    worst: Duration,
}

impl Pings {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort();
        let at = |share: usize| all.get(all.len() * share / 100).copied().unwrap_or_default();
        Self { count: all.len(), p50: at(50), p99: at(99), worst: all.last().copied().unwrap() }
    }
}

impl std::fmt::Display for Pings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for took in [self.p50, self.p99, self.worst] {
            write!(f, " {:>7.2} ms", took.as_secs_f64() * 1000.0)?;
        }
        Ok(())
    }
}

impl Neighbour {
    async fn pings_for(&self, duration: Duration) -> Pings {
        let from = Instant::now();
        let mut all = Vec::new();
        while from.elapsed() < duration {
            let ping = tokio::time::timeout(LOCKED_OUT * 2, self.session.ping()).await;
            all.push(ping.expect("the neighbour is locked out").expect("its session holds"));
        }
        Pings::of(all)
    }
}
