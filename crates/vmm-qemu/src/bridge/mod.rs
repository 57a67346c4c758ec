//! A vsock without the host kernel's help: the program vhost-device-vsock
//! (<https://github.com/rust-vmm/vhost-device>), one process for each machine.
//!
//! ```text
//!   start ──spawn──▶ vhost-device-vsock ──listens──▶ vhost.sock  ◀── QEMU, by a descriptor
//!                        ▲                           vsock.sock  ◀── connect: CONNECT 5161, OK …
//!     find ──/proc───────┘                                │
//!                                                         └──▶ port 5161 of the guest
//! ```
//!
//! Its life is its machine's: started before QEMU with the same lifetime, and
//! ended after it, by whoever ends or reaps the machine. Nobody records it: it
//! holds its machine's run directory as a descriptor, by which it is known among
//! the host's processes, also when its agent died before it listened. Its log,
//! made before it, says that there may be one to look for.
//!
//! Four habits of the program decide what is done here (version 0.3.0,
//! vhu_vsock_thread.rs and vsock_conn.rs). It removes vhost.sock once QEMU is
//! connected, so it cannot be found by that. A client of vsock.sock that hangs
//! up before its CONNECT makes it spin, so nobody may connect there just to
//! look. It panics when it writes its OK to a client that has gone, so a
//! handshake that nobody waits for any more is still seen through. And a
//! connection while the guest's driver starts ends its worker: see `rings`. A
//! guest that resets within its machine would make it do so again, with a
//! connection open, so a machine with a bridge ends by a reset.
//!
//! The kernel's own vhost-vsock is not used, also where it is there: it knows
//! one name space of context ids for all agents of a host, and gives a socket
//! that is no unix socket.

mod rings;

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_fail_point::{Point, fail_point};
use inn_host::process::{
    Exit, MissingProgram, OpenError, Process, ProcessIdentity, Program, Signal, SpawnSpec,
};
use inn_host::socket;
use inn_vmm::{LaunchError, Lifetime, MachineConfig, io_error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::discover::Found;

use crate::machine::Files;

use self::rings::Stage;

pub(crate) const PROGRAM: Program = Program::VHOST_DEVICE_VSOCK;

/// The guest agent's port.
const PORT: u32 = 5161;

/// The first that is not reserved (linux/vm_sockets.h). Each machine has a
/// bridge of its own, which knows no other: all guests may have the same.
const GUEST_CID: u32 = 3;

/// From the process's start to its sockets: some 5 ms, but a host may be
/// swapping.
const START: Duration = Duration::from_secs(60);

/// Between two looks for a socket: nothing tells when it appears.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// For a guest's kernel to accept or refuse: milliseconds, unless its CPUs do
/// not run.
const ACCEPT: Duration = Duration::from_secs(10);

/// For the end after SIGKILL.
const END: Duration = Duration::from_secs(30);

/// `OK `, a port's number and a newline, with room to spare.
const LONGEST_ANSWER: usize = 32;

/// Where its own descriptors are, for a process.
const DIRECTORIES: &str = "/proc/self/fd/";

/// Where the program is: named by whoever made the runtime, or found.
pub(crate) fn find_program(named: Option<&Path>) -> Result<PathBuf, MissingProgram> {
    named.map_or_else(|| PROGRAM.find(), |path| Ok(path.to_owned()))
}

/// A bridge on its way into a machine's hands. Dropped before, it is ended.
#[derive(Debug)]
pub(crate) struct Bridge {
    process: Option<Process>,
}

impl Bridge {
    /// Starts a bridge, and gives the connection that QEMU is to have.
    pub(crate) async fn start(
        program: &Path,
        found: &Found,
        config: &MachineConfig,
        files: &Files,
        log: File,
    ) -> Result<(Self, OwnedFd), LaunchError> {
        for path in [files.vhost(), files.vsock()] {
            socket::remove(&path).map_err(io_error("removing", &path))?;
        }
        let run_dir = File::open(&config.run_dir).map_err(io_error("opening", &config.run_dir))?;
        let mut spec = SpawnSpec::new(program, log)
            .leased(config.lifetime == Lifetime::Leased)
            .confined(found.confined(&config.isolation)?);
        let dir = spec.inherit(run_dir.into());
        let spec = spec.args(args(dir));
        let process = found.spawner.spawn(spec).await.map_err(io_error("starting", program))?;
        let bridge = Self { process: Some(process) };
        fail_point(Point::BridgeSpawned);
        let connection = bridge.first_connection(files).await?;
        let connection = connection
            .into_std()
            .and_then(|stream| stream.set_nonblocking(false).map(|()| stream))
            .map_err(io_error("connecting to", &files.vhost()))?;
        Ok((bridge, connection.into()))
    }

    /// Waits for its socket, or for its last words.
    async fn first_connection(&self, files: &Files) -> Result<UnixStream, LaunchError> {
        let path = files.vhost();
        let process = self.process.as_ref().expect("it was started");
        let failed = |reason: String| LaunchError::Failed {
            program: PROGRAM.name().to_owned(),
            reason,
            log: Vec::new(),
        };
        let listening = async {
            loop {
                match socket::connect(&path).await {
                    Err(error) if is_nobody(&error) => sleep(LOOK_EVERY).await,
                    connected => return connected,
                }
            }
        };
        tokio::select! {
            // A connection that is not yet there is no loss.
            connected = timeout(START, listening) => match connected {
                Ok(connected) => connected.map_err(io_error("connecting to", &path)),
                Err(_) => Err(failed(format!("it did not listen within {} s", START.as_secs()))),
            },
            // Only polls a descriptor.
            exit = process.wait() => Err(failed(match exit {
                Ok(Exit::Status(status)) => format!("it ended with {status}"),
                _ => "it ended".to_owned(),
            })),
        }
    }

    /// It is the machine's from now on.
    pub(crate) fn hand_over(mut self) -> Process {
        self.process.take().expect("handed over or dropped, once")
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let Some(process) = self.process.take()
            && let Err(error) = process.kill(Signal::KILL)
        {
            tracing::warn!(pid = process.identity().pid, %error, "a failed launch's bridge lives on");
        }
    }
}

/// Its paths lead through the directory's descriptor: they are short, whatever
/// the directory's path is, and hold no comma.
fn args(dir: i32) -> [String; 6] {
    let path = |name: &str| format!("{DIRECTORIES}{dir}/{name}");
    [
        "--guest-cid".to_owned(),
        GUEST_CID.to_string(),
        "--socket".to_owned(),
        path(Files::VHOST),
        "--uds-path".to_owned(),
        path(Files::VSOCK),
    ]
}

/// The bridge of a machine of an earlier life, if there is one.
pub(crate) async fn find(files: &Files) -> io::Result<Option<Process>> {
    if !files.bridge_log().exists() {
        return Ok(None);
    }
    let run_dir = match files.run_dir().metadata() {
        Ok(metadata) => Place::of(&metadata),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // One read for each process of the host.
    tokio::task::spawn_blocking(move || look(run_dir)).await.map_err(io::Error::other)?
}

/// One directory, whatever its path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    device: u64,
    inode: u64,
}

impl Place {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

fn look(run_dir: Place) -> io::Result<Option<Process>> {
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if !holds(pid, run_dir) {
            continue;
        }
        // Gone since, or not ours to look at: in neither case a bridge of ours.
        let Ok(identity) = ProcessIdentity::of_pid(pid) else { continue };
        match Process::open(&identity) {
            // Asked again, now that the pid cannot become another's.
            Ok(process) if holds(pid, run_dir) && process.is_alive() => return Ok(Some(process)),
            Ok(_) | Err(OpenError::Gone { .. }) => {}
            Err(OpenError::Io { source, .. }) => return Err(source),
        }
    }
    Ok(None)
}

/// Whether a process is a bridge that was told this run directory.
fn holds(pid: u32, run_dir: Place) -> bool {
    let dir = fs::read(format!("/proc/{pid}/cmdline")).ok().and_then(|line| told_dir(&line));
    let place = dir.and_then(|dir| fs::metadata(format!("/proc/{pid}/fd/{dir}")).ok());
    place.is_some_and(|metadata| Place::of(&metadata) == run_dir)
}

/// The descriptor in a bridge's command line (proc(5): arguments ended by
/// zeros), as [`args`] made it.
fn told_dir(line: &[u8]) -> Option<u32> {
    let mut words = line.split(|byte| *byte == 0);
    let program = Path::new(OsStr::from_bytes(words.next()?)).file_name()?;
    if program != PROGRAM.name() {
        return None;
    }
    let socket = words.skip_while(|word| *word != b"--socket").nth(1)?;
    let path = std::str::from_utf8(socket).ok()?.strip_prefix(DIRECTORIES)?;
    path.strip_suffix(Files::VHOST)?.strip_suffix('/')?.parse().ok()
}

/// Ends a bridge and waits until it is gone.
pub(crate) async fn end(process: &Process) -> io::Result<()> {
    process.kill(Signal::KILL)?;
    match timeout(END, process.wait()).await {
        Ok(ended) => ended.map(drop),
        Err(_) => Err(io::Error::new(
            ErrorKind::TimedOut,
            format!("{} is still there after SIGKILL", PROGRAM.name()),
        )),
    }
}

/// A stream to the guest agent, once the guest has accepted it; `pid` is the
/// bridge's.
pub(crate) async fn connect(files: &Files, pid: Option<u32>) -> io::Result<UnixStream> {
    let pid = pid.ok_or_else(|| ended(ErrorKind::NotFound))?;
    // A few small reads of /proc.
    match rings::stage(pid) {
        Ok(Stage::NotStarted) => return Err(refused()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(ended(error.kind())),
        Ok(Stage::Serving | Stage::NoWorker) => {}
        Err(error) => return Err(error),
    }
    let path = files.vsock();
    // Not cancelled with its caller: see above.
    let handshake = tokio::spawn(async move {
        let mut stream = socket::connect(&path).await.map_err(explain)?;
        match timeout(ACCEPT, handshake(&mut stream)).await {
            Ok(done) => done.map(|()| stream),
            Err(_) => Err(io::Error::new(ErrorKind::TimedOut, unaccepted(pid))),
        }
    });
    handshake.await.map_err(io::Error::other)?
}

fn unaccepted(pid: u32) -> String {
    let seconds = ACCEPT.as_secs();
    match rings::stage(pid) {
        Ok(Stage::NoWorker) => format!(
            "the machine's {} did not answer within {seconds} s and has no worker any more; \
             restart the VM",
            PROGRAM.name()
        ),
        _ => format!("the guest did not accept within {seconds} s"),
    }
}

/// As Firecracker has it (docs/vsock.md, "Host-Initiated Connections").
async fn handshake(stream: &mut UnixStream) -> io::Result<()> {
    match stream.write_all(format!("CONNECT {PORT}\n").as_bytes()).await {
        // As long as the guest has no driver, the bridge hangs up on everyone.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => return Err(refused()),
        written => written?,
    }
    let mut answer = Vec::with_capacity(LONGEST_ANSWER);
    // Byte by byte: what follows the line is the guest's.
    while answer.len() < LONGEST_ANSWER {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            // It was refused: nobody listens, or there is no driver yet.
            Ok(0) => return Err(refused()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(refused()),
            Err(error) => return Err(error),
            Ok(_) if byte == *b"\n" => return check(&answer),
            Ok(_) => answer.push(byte[0]),
        }
    }
    check(&answer)
}

fn refused() -> io::Error {
    io::Error::new(
        ErrorKind::ConnectionRefused,
        format!("nobody listens at the guest's vsock port {PORT} yet, or any more"),
    )
}

fn check(answer: &[u8]) -> io::Result<()> {
    let text = String::from_utf8_lossy(answer);
    match text.strip_prefix("OK ").map(str::parse::<u32>) {
        Some(Ok(_port)) => Ok(()),
        _ => Err(io::Error::new(
            ErrorKind::InvalidData,
            format!("the vsock's bridge answers {:?}", text.escape_debug().to_string()),
        )),
    }
}

fn explain(error: io::Error) -> io::Error {
    if is_nobody(&error) { ended(error.kind()) } else { error }
}

fn ended(kind: ErrorKind) -> io::Error {
    io::Error::new(kind, format!("the machine's {} has ended; restart the VM", PROGRAM.name()))
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(bytes: &[u8]) -> (io::Result<()>, Vec<u8>) {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).await.unwrap();
        theirs.shutdown().await.unwrap();
        let result = handshake(&mut ours).await;
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.unwrap();
        let mut asked = vec![0; 13];
        theirs.read_exact(&mut asked).await.unwrap();
        assert_eq!(asked, b"CONNECT 5161\n");
        (result, rest)
    }

    #[tokio::test]
    async fn the_guests_bytes_begin_after_the_answer() {
        let (result, rest) = answered(b"OK 1024\nhello\n").await;
        result.unwrap();
        assert_eq!(rest, b"hello\n");
    }

    #[tokio::test]
    async fn anything_but_an_ok_is_an_error_and_bounded() {
        let kind = |(result, _): (io::Result<()>, Vec<u8>)| result.unwrap_err().kind();
        assert_eq!(kind(answered(b"").await), ErrorKind::ConnectionRefused);
        assert_eq!(kind(answered(b"OK 12").await), ErrorKind::ConnectionRefused);
        for bad in [&b"\n"[..], b"OK\n", b"OK x\n", b"NO 5\n", b"\xff\xfe\n", &[b'x'; 5000]] {
            assert_eq!(kind(answered(bad).await), ErrorKind::InvalidData, "{bad:?}");
        }
    }

    #[test]
    fn a_bridge_is_known_by_its_command_line() {
        let line = |program: &str, args: &[String]| {
            let words = std::iter::once(program).chain(args.iter().map(String::as_str));
            words.flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect::<Vec<u8>>()
        };
        assert_eq!(told_dir(&line("/usr/bin/vhost-device-vsock", &args(17))), Some(17));
        assert_eq!(told_dir(&line("vhost-device-vsock", &args(3))), Some(3));
        assert_eq!(told_dir(&line("/usr/bin/vim", &args(17))), None);
        let others = ["--socket".to_owned(), "/run/vm/vhost.sock".to_owned()];
        assert_eq!(told_dir(&line("vhost-device-vsock", &others)), None);
        for cut in [&b""[..], b"vhost-device-vsock", b"vhost-device-vsock\0--socket\0", b"\xff\0"] {
            assert_eq!(told_dir(cut), None, "{cut:?}");
        }
    }

    #[tokio::test]
    async fn a_bridge_that_is_gone_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path());
        for pid in [None, Some(u32::MAX), Some(std::process::id())] {
            let error = connect(&files, pid).await.unwrap_err();
            assert!(error.to_string().contains("vhost-device-vsock has ended"), "{error}");
        }
    }
}
