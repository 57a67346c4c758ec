//! What the node and a guest say to each other, in the node's words. The wire
//! has types of its own; `convert.rs` is the one edge between them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use inn_units::ExecId;

/// What the guest said of itself in the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestHello {
    /// Of the protocol, as both ends agreed to speak it.
    pub protocol: (u32, u32),
    /// The version of `inn-guest`, for people.
    pub version: String,
    /// /proc/sys/kernel/random/boot_id: changes when the guest rebooted.
    pub boot_id: String,
    pub kernel: String,
    /// Names of what this guest can do, for additions within one major version.
    pub capabilities: Vec<String>,
    /// Whether it is PID 1 and so owns hostname, network and shutdown.
    pub is_init: bool,
    /// Whether a [`GuestSetup`] was applied since it booted: after the agent's
    /// restart the answer is yes, and nothing is to be sent again.
    pub configured: bool,
    /// How long ago the guest's kernel started, by its own clock.
    pub uptime: Duration,
    /// The operating system as it names itself, where it told.
    pub os: Option<String>,
    /// Whether its file systems are frozen.
    pub frozen: bool,
}

impl GuestHello {
    /// Whether the guest can do what came after 1.0: see
    /// [`inn_guest_proto::capability`].
    pub fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|known| known == capability)
    }
}

/// All that is personal to a VM. Sent once per boot, right after the
/// handshake, and never by the kernel's command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestSetup {
    pub hostname: String,
    /// 32 lowercase hex digits (machine-id(5)).
    pub machine_id: String,
    pub network: Option<GuestAddressing>,
    /// What the guest's clock is set to; `None` leaves it.
    pub clock: Option<SystemTime>,
    pub mounts: Vec<GuestMount>,
    /// Run programs at fixed addresses (personality(2), ADDR_NO_RANDOMIZE).
    /// Under TCG each move of libc is translated anew: a spawn takes 25 ms
    /// instead of 4. Leave it off where the CPU is real.
    pub stable_addresses: bool,
}

/// How the only network card gets its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestAddressing {
    Static(GuestNetwork),
    /// The guest asks its network. One from before protocol 1.4 refuses.
    Dhcp,
}

/// A static configuration of the only network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestNetwork {
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    /// A guest from before protocol 1.3 does without.
    pub ipv6: Option<GuestNetwork6>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestNetwork6 {
    pub address: Ipv6Addr,
    pub prefix: u8,
    pub gateway: Option<Ipv6Addr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestMount {
    /// The serial of the disk, which holds one ext4 file system.
    pub serial: String,
    /// Absolute; made when it is missing.
    pub target: String,
    pub read_only: bool,
}

/// What the guest could not do of a [`GuestSetup`] and went on without, such
/// as writing /etc/hosts into an image whose /etc is a file: one sentence each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetupReport {
    pub problems: Vec<String>,
}

/// A process to start. `argv[0]` without a slash is looked up in the PATH of
/// `env`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSpec {
    pub id: ExecId,
    pub argv: Vec<String>,
    /// In place of `argv`: a line for the guest's shell. Needs `exec-2`.
    pub command_line: Option<String>,
    /// Started again by the guest, under the same id. Needs `exec-2`.
    pub supervision: Option<Supervision>,
    /// `K=V`, the whole environment: the guest adds PATH, HOME, HOSTNAME and,
    /// with a terminal, TERM where they are missing.
    pub env: Vec<String>,
    /// Absolute; `None` is `/`.
    pub cwd: Option<String>,
    /// Make `cwd` if it is missing, as container engines do for WORKDIR.
    pub make_cwd: bool,
    /// `name|uid[:name|gid]`; `None` is root.
    pub user: Option<String>,
    pub tty: Option<TtySize>,
    /// Whether there is a stdin to write to; otherwise it is /dev/null.
    pub stdin: bool,
    /// The process group gets SIGTERM after this, and SIGKILL soon after.
    pub timeout: Option<Duration>,
    /// Bytes of stdout and stderr together that are passed on; the rest is
    /// read, dropped and counted. `None` has no limit.
    pub output_limit: Option<u64>,
    /// Keep the last so many bytes of output in the guest and the process
    /// alive when the session or this [`super::Exec`] goes away, for
    /// [`super::GuestSession::attach`]. `None` ends the process with it.
    pub retain: Option<u32>,
    /// How long the process goes on when the session is lost, for
    /// [`super::GuestSession::attach`]. Needs `exec-3`, and means nothing to a
    /// guest without it, or together with `retain` or `supervision`. The
    /// guest keeps the output until [`super::ExecControl::output_taken`].
    pub lasting: Option<Duration>,
    /// As in [`GuestSetup`], which an agent that is not PID 1 is never sent.
    /// Without a meaning to guests of protocol 1.0.
    pub stable_addresses: bool,
}

impl ExecSpec {
    /// A process of root in `/` with nothing on its stdin.
    pub fn new(id: ExecId, argv: Vec<String>) -> Self {
        Self {
            id,
            argv,
            command_line: None,
            supervision: None,
            env: Vec::new(),
            cwd: None,
            make_cwd: false,
            user: None,
            tty: None,
            stdin: false,
            timeout: None,
            output_limit: None,
            retain: None,
            lasting: None,
            stable_addresses: false,
        }
    }
}

/// When the guest starts a program again that has ended, and how soon: the
/// delay doubles from the first to the second, and begins afresh after a run
/// of ten times the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supervision {
    pub policy: RestartPolicy,
    pub min_delay: Duration,
    pub max_delay: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    No,
    OnFailure,
    Always,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtySize {
    pub rows: u16,
    pub cols: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// The program runs. Always the first event of an exec that starts.
    Started {
        pid: u32,
        /// Of a lasting exec: how far its input has got before this.
        input_taken: Option<InputTaken>,
    },
    /// Of a lasting exec: its input has got so far.
    InputTaken(InputTaken),
    Stdout(Output),
    Stderr(Output),
    /// Of a supervised exec: a run ended, and the next follows.
    RunEnded {
        end: ExecEnd,
        /// How often it was started again so far.
        restarts: u32,
        next_in: Duration,
    },
    /// Of a supervised exec: it was started again.
    RunStarted {
        pid: u32,
        restarts: u32,
    },
    /// Always the last event.
    Exited(ExecEnd),
}

/// How much of an exec's input the process has been given, or will never read,
/// and whether it was given the input's end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InputTaken {
    pub bytes: u64,
    pub ended: bool,
}

/// A piece of output and where it lies: `offset` counts the bytes of stdout
/// and stderr together from the start of the process. A retained exec that
/// wrote more than it may keep leaves a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub offset: u64,
    pub bytes: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecEnd {
    pub status: ExecStatus,
    /// The timeout ended it.
    pub timed_out: bool,
    /// Bytes of output dropped because of `output_limit`.
    pub truncated: u64,
    /// Bytes of output passed on, stdout and stderr together.
    pub output: u64,
    /// From the start of the process to its end, by the guest's clock.
    pub took: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecStatus {
    Code(i32),
    /// The signal's number.
    Signal(i32),
}

impl ExecEnd {
    /// As a shell says it: the code, or 128 and the signal's number.
    pub fn exit_code(&self) -> i32 {
        match self.status {
            ExecStatus::Code(code) => code,
            ExecStatus::Signal(number) => 128 + number,
        }
    }
}

/// An exec that the guest knows: running, or ended and still retained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSummary {
    pub id: ExecId,
    pub pid: u32,
    pub argv: Vec<String>,
    pub retained: bool,
    /// The offsets of output that an attach can still read: `start..end`.
    pub output_start: u64,
    pub output_end: u64,
    /// `None` while it runs.
    pub ended: Option<ExecEnd>,
    /// By the guest's clock; `None` of a guest before 1.1, which leaves all
    /// that follows empty too.
    pub started: Option<SystemTime>,
    /// As it was asked for; empty is the default user.
    pub user: String,
    pub tty: bool,
    pub stdin_open: bool,
    pub restarts: u32,
    /// Of a supervised exec: how its last run ended.
    pub last_run: Option<ExecEnd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownKind {
    PowerOff,
    Reboot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    pub kind: FileKind,
    pub size: u64,
    /// Permissions with setuid, setgid and sticky: 12 bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub modified: (i64, u32),
    /// Where a symlink points to.
    pub target: Option<String>,
    pub inode: u64,
    /// Bytes that it takes on the guest's disk.
    pub allocated: u64,
    pub links: u64,
}

impl FileInfo {
    /// Which content this is, as far as a file system tells.
    pub fn version(&self) -> FileVersion {
        FileVersion { inode: self.inode, size: self.size, modified: self.modified }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileVersion {
    pub inode: u64,
    pub size: u64,
    pub modified: (i64, u32),
}

/// Names an upload that goes on after its stream broke off: the client's
/// choice, for one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadId(pub [u8; 8]);

/// A piece of a file's content, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Data(Bytes),
    /// So many zeros that take no space.
    Hole(u64),
}

/// What a guest has written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Length of the content, from its start where it is an upload.
    pub length: u64,
    /// Of a sparse transfer: see [`inn_guest_proto::BlockSum`].
    pub block_sum: Option<[u8; 8]>,
}

/// What is absent stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileAttributes {
    pub mode: Option<u32>,
    pub owner: Option<(u32, u32)>,
    pub modified: Option<(i64, u32)>,
}

/// What a watch tells at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileChanges {
    pub changes: Vec<FileChange>,
    /// Changes were lost: look for yourself.
    pub overflow: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    pub kind: FileChangeKind,
    /// Absolute.
    pub path: String,
    /// Of a rename within what is watched.
    pub from: Option<String>,
    pub directory: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileChangeKind {
    Created,
    Modified,
    Removed,
    Renamed,
    Attributes,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    pub name: String,
    pub info: FileInfo,
}

/// How to write a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteSpec {
    /// `None` keeps the mode of a file that is replaced, else 0644.
    pub mode: Option<u32>,
    /// Uid and gid; `None` keeps the owner of a file that is replaced.
    pub owner: Option<(u32, u32)>,
    /// Write into the file from here on and cut nothing. `None` replaces the
    /// file whole, by rename, once its checksum was verified in the guest.
    pub offset: Option<u64>,
    /// Make missing directories above it.
    pub make_parents: bool,
    /// Keep what has arrived if the stream breaks off, and go on with what is
    /// kept: see [`super::FileWriter::start`]. Needs `files-2`.
    pub upload: Option<UploadId>,
    /// Allow [`super::FileWriter::skip`]. Needs `files-2`.
    pub sparse: bool,
    pub modified: Option<(i64, u32)>,
    /// The length to come, where it is known: too much for the guest's disk
    /// is refused at once.
    pub length: Option<u64>,
}

/// How to read a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadSpec {
    pub offset: u64,
    /// `None` reads to the end.
    pub limit: Option<u64>,
    /// Leave holes out of the transfer. Needs `files-2`.
    pub sparse: bool,
    /// Refuse the read if the file has another content than this.
    pub expect: Option<FileVersion>,
}
