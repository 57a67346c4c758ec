//! A vsock without the host kernel's help: the program vhost-device-vsock
//! (<https://github.com/rust-vmm/vhost-device>), one process for each machine.
//!
//! ```text
//!   start ──spawn──▶ vhost-device-vsock ──listens──▶ vhost.sock  ◀── QEMU, by a descriptor
//!                        │                           vsock.sock  ◀── connect: CONNECT 5161, OK …
//!     find ──SO_PEERCRED─┘                                │
//!                                                         └──▶ port 5161 of the guest
//! ```
//!
//! Its life is its machine's: started before QEMU with the same lifetime, and
//! ended after it, by whoever ends or reaps the machine. It is told its
//! directory as a descriptor: a bridge whose agent died before it listened, and
//! whose directory was removed since, cannot listen any more and ends.
//!
//! Two habits of the program decide what is done here (version 0.3.0,
//! vhu_vsock_thread.rs and vsock_conn.rs). A client of vsock.sock that hangs up
//! before its CONNECT makes it spin, so nobody may connect there just to look:
//! it is found by vhost.sock, where connections wait in the queue. And it
//! panics when it writes its OK to a client that has gone, so a handshake that
//! nobody waits for any more is still seen through.
//!
//! The kernel's own vhost-vsock is not used, also where it is there: it knows
//! one name space of context ids for all agents of a host, and gives a socket
//! that is no unix socket.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_host::process::{Exit, MissingProgram, Process, Program, Signal, SpawnSpec, Spawner};
use inn_host::socket;
use inn_vmm::{LaunchError, Lifetime, MachineConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::launch::{io_error, open_log};
use crate::machine::Files;
use crate::reap::behind;

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

/// For a guest to accept. One that still boots has no driver yet, and accepts
/// as soon as it has and somebody listens.
const ACCEPT: Duration = Duration::from_secs(60);

/// For the end after SIGKILL.
const END: Duration = Duration::from_secs(30);

/// `OK `, a port's number and a newline, with room to spare.
const LONGEST_ANSWER: usize = 32;

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
        spawner: &Spawner,
        config: &MachineConfig,
        files: &Files,
    ) -> Result<(Self, OwnedFd), LaunchError> {
        for path in [files.vhost(), files.vsock()] {
            socket::remove(&path).map_err(io_error("removing", &path))?;
        }
        let run_dir = File::open(&config.run_dir).map_err(io_error("opening", &config.run_dir))?;
        let mut spec = SpawnSpec::new(program, open_log(&files.bridge_log())?)
            .leased(config.lifetime == Lifetime::Leased);
        let dir = spec.inherit(run_dir.into());
        let spec = spec.args(args(dir));
        let process = spawner.spawn(spec).await.map_err(io_error("starting", program))?;
        let bridge = Self { process: Some(process) };
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
            log: files.bridge_last_lines(),
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
    let path = |name: &str| format!("/proc/self/fd/{dir}/{name}");
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
    behind(&files.vhost()).await
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

/// A stream to the guest agent, once the guest has accepted it.
pub(crate) async fn connect(files: &Files) -> io::Result<UnixStream> {
    let path = files.vsock();
    // Not cancelled with its caller: see above.
    let handshake = tokio::spawn(async move {
        let mut stream = socket::connect(&path).await.map_err(explain)?;
        match timeout(ACCEPT, handshake(&mut stream)).await {
            Ok(done) => done.map(|()| stream),
            Err(_) => Err(io::Error::new(
                ErrorKind::TimedOut,
                format!("the guest did not accept within {} s", ACCEPT.as_secs()),
            )),
        }
    });
    handshake.await.map_err(io::Error::other)?
}

/// As Firecracker has it (docs/vsock.md, "Host-Initiated Connections").
async fn handshake(stream: &mut UnixStream) -> io::Result<()> {
    stream.write_all(format!("CONNECT {PORT}\n").as_bytes()).await?;
    let mut answer = Vec::with_capacity(LONGEST_ANSWER);
    // Byte by byte: what follows the line is the guest's.
    while answer.len() < LONGEST_ANSWER {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            // It was refused: the guest runs, and nobody listens there.
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
        format!("nobody listens at the guest's vsock port {PORT}"),
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
    if !is_nobody(&error) {
        return error;
    }
    let text = format!("the machine's {} has ended; restart the VM", PROGRAM.name());
    io::Error::new(error.kind(), text)
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

    #[tokio::test]
    async fn a_bridge_that_is_gone_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = connect(&Files::new(dir.path())).await.unwrap_err();
        assert!(error.to_string().contains("vhost-device-vsock has ended"), "{error}");
    }
}
