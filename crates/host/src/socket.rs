//! Unix sockets by directory and name.
//!
//! A socket's path has at most 107 bytes (sys/un.h), which a data directory
//! deep in a home directory exceeds. The name is therefore looked up through
//! an open descriptor of its directory, under a path of constant length.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use tokio::net::UnixStream;
use tokio::time::Instant;

/// The room for a path in `sockaddr_un`, less its closing zero.
const LONGEST: usize = 107;

/// A VMM that serves one client at a time queues one more: a client that has
/// just gone fills the queue until it is noticed.
const QUEUE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(2);

/// Listens at `path`, in place of whatever socket an earlier life left there.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    remove(path)?;
    let short = ShortPath::new(path)?;
    UnixListener::bind(&short.path)
}

/// Connects to the socket at `path`. A listener that is there and has its
/// queue full is waited for, 10 s at most.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    let short = ShortPath::new(path)?;
    let deadline = Instant::now() + QUEUE;
    loop {
        match UnixStream::connect(&short.path).await {
            // unix(7): there is no event for a queue that has room again.
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                tokio::time::sleep(RETRY).await;
            }
            connected => return connected,
        }
    }
}

/// Removes a socket's name, if it is there.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

struct ShortPath {
    path: PathBuf,
    /// What `path` leads through.
    _directory: Option<OwnedFd>,
}

impl ShortPath {
    fn new(path: &Path) -> io::Result<Self> {
        if path.as_os_str().as_bytes().len() <= LONGEST {
            return Ok(Self { path: path.to_owned(), _directory: None });
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(parent, flags, Mode::empty())?;
        let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        Ok(Self { path, _directory: Some(directory) })
    }
}

/// linux/icmpv6.h, `ICMPV6_FILTER`: a bit for each kind of message, set for
/// those that the kernel keeps to itself.
const ICMPV6_FILTER: libc::c_int = 1;

/// Has a raw socket of ICMPv6 hear of this one kind of message (RFC 3542, 3.2).
#[allow(unsafe_code)]
pub fn hear_only_icmp6(socket: impl AsFd, kind: u8) -> io::Result<()> {
    let mut kept = [u32::MAX; 8];
    kept[usize::from(kind >> 5)] &= !(1 << (kind & 31));
    let length = libc::socklen_t::try_from(size_of_val(&kept)).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes of `kept`, which lives longer.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_ICMPV6,
            ICMPV6_FILTER,
            kept.as_ptr().cast(),
            length,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kind_of_message_is_heard_and_no_other() {
        use rustix::net::{
            AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket,
        };

        let netns = match crate::netns::Netns::make() {
            Ok(netns) => netns,
            Err(why) => return println!("SKIPPED one_kind_of_message_…: {why}"),
        };
        netns.run(|| {
            #[expect(clippy::disallowed_methods, reason = "a test in its own namespace")]
            let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
            assert!(up.unwrap().success());
            let raw =
                || socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
            let (hears, sends) = (raw(), raw());
            hear_only_icmp6(&hears, 133).unwrap();
            let to: std::net::SocketAddr = "[::1]:0".parse().unwrap();
            for kind in [128_u8, 134, 133] {
                sendto(&sends, &[kind, 0, 0, 0, 0, 0, 0, 0], SendFlags::empty(), &to).unwrap();
            }
            let mut heard = [0_u8; 8];
            recv(&hears, &mut heard, RecvFlags::empty()).unwrap();
            assert_eq!(heard[0], 133);
        });
    }

    #[tokio::test]
    async fn a_full_queue_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let listener = listen(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let first = connect(&path).await.unwrap();
        let (second, ()) = tokio::join!(connect(&path), async {
            tokio::task::yield_now().await;
            listener.accept().unwrap();
        });
        second.unwrap();
        drop(first);
    }

    #[tokio::test]
    async fn paths_of_any_length_work_and_stale_sockets_do_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        for directory in [dir.path().to_owned(), dir.path().join("d".repeat(200))] {
            fs::create_dir_all(&directory).unwrap();
            let path = directory.join("x.sock");
            drop(listen(&path).unwrap());
            assert!(connect(&path).await.is_err(), "nobody listens");
            let listener = listen(&path).unwrap();
            connect(&path).await.unwrap();
            listener.accept().unwrap();
            remove(&path).unwrap();
            remove(&path).unwrap();
            assert!(!path.exists());
        }
    }
}
