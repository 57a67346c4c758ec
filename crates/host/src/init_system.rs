//! The protocols of whoever has started this process as a service: systemd,
//! or another that speaks as it does.
//!
//! sd_notify(3): state as lines in one datagram to the unix socket that
//! `$NOTIFY_SOCKET` names, a leading `@` standing for an abstract one.
//! sd_listen_fds(3): sockets from descriptor 3 on, `$LISTEN_FDS` of them, for
//! the process `$LISTEN_PID`. sd_watchdog_enabled(3): a sign of life at least
//! every `$WATCHDOG_USEC`, of the process `$WATCHDOG_PID`.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;
use std::time::Duration;

use rustix::fs::fcntl_getfl;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::time::{ClockId, clock_gettime};

/// SD_LISTEN_FDS_START.
const FIRST_FD: RawFd = 3;

/// Of an agent that this process was before: its pid, and `:NAME=DESCRIPTOR` for
/// each socket that it has handed over.
pub(crate) const HANDED_SOCKETS: &str = "INN_HANDED_SOCKETS";

/// What is said of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    /// It serves; after a reload, again.
    Ready,
    Reloading,
    Stopping,
    Alive,
    /// One line for people.
    Status(&'a str),
}

/// The way to whoever has started this process; nothing is said where nobody
/// listens.
#[derive(Debug, Default)]
pub struct InitSystem {
    notify: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl InitSystem {
    /// By this process's environment.
    pub fn find() -> io::Result<Self> {
        Self::find_in(&|name| std::env::var_os(name))
    }

    /// At this socket, and without a watchdog.
    pub fn at(socket: &Path) -> io::Result<Self> {
        let notify = Some((UnixDatagram::unbound()?, address(socket.as_os_str())?));
        Ok(Self { notify, watchdog: None })
    }

    fn find_in(env: &dyn Fn(&str) -> Option<OsString>) -> io::Result<Self> {
        let notify = match env("NOTIFY_SOCKET") {
            Some(name) => Some((UnixDatagram::unbound()?, address(&name)?)),
            None => None,
        };
        Ok(Self { notify, watchdog: watchdog(env) })
    }

    /// How often it wants to hear that this process lives.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Never waits: what does not fit is lost, as it would be with nobody there.
    pub fn say(&self, all: &[Said<'_>]) -> io::Result<()> {
        let Some((socket, address)) = &self.notify else { return Ok(()) };
        socket.set_nonblocking(true)?;
        socket.send_to_addr(message(all).as_bytes(), address).map(drop)
    }
}

fn message(all: &[Said<'_>]) -> String {
    let mut text = String::new();
    for said in all {
        // A string takes all that is written to it.
        let _ = match said {
            Said::Ready => writeln!(text, "READY=1"),
            Said::Reloading => {
                // When the reload began, by the clock that it names.
                let now = clock_gettime(ClockId::Monotonic);
                let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
                writeln!(text, "RELOADING=1\nMONOTONIC_USEC={micros}")
            }
            Said::Stopping => writeln!(text, "STOPPING=1"),
            Said::Alive => writeln!(text, "WATCHDOG=1"),
            Said::Status(line) => writeln!(text, "STATUS={}", line.replace('\n', " ")),
        };
    }
    text
}

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    }
}

fn watchdog(env: &dyn Fn(&str) -> Option<OsString>) -> Option<Duration> {
    let number = |name| env(name)?.to_str()?.parse::<u64>().ok();
    let mine = env("WATCHDOG_PID").is_none()
        || number("WATCHDOG_PID") == Some(u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|usec| mine && *usec > 0).map(Duration::from_micros)
}

/// Listening sockets that were opened for this process before it started.
#[derive(Debug, Default)]
pub struct PassedListeners {
    /// With the name under which an agent before has handed it over, if any.
    pub unix: Vec<(String, UnixListener)>,
    pub tcp: Vec<TcpListener>,
}

/// To be asked for once, before anything else opens descriptors.
pub fn passed_listeners() -> io::Result<PassedListeners> {
    let env = |name: &str| std::env::var_os(name);
    let from_init = (FIRST_FD..).take(passed(&env)).map(|fd| (String::new(), fd));
    let mut listeners = PassedListeners::default();
    for (name, fd) in handed(&env).into_iter().chain(from_init) {
        let fd = take(fd)?;
        let is_stream = sockopt::socket_type(&fd)? == SocketType::STREAM;
        if !is_stream || !sockopt::socket_acceptconn(&fd)? {
            continue;
        }
        match sockopt::socket_domain(&fd)? {
            AddressFamily::UNIX => {
                listeners.unix.push((name, UnixListener::from(fd)));
            }
            AddressFamily::INET | AddressFamily::INET6 => listeners.tcp.push(fd.into()),
            _ => {}
        }
    }
    Ok(listeners)
}

fn handed(env: &dyn Fn(&str) -> Option<OsString>) -> Vec<(String, RawFd)> {
    let text = env(HANDED_SOCKETS).unwrap_or_default();
    let text = text.to_string_lossy();
    let mut parts = text.split(':');
    let mine = parts.next().and_then(|pid| pid.parse().ok()) == Some(std::process::id());
    let sockets = parts.filter_map(|part| {
        let (name, number) = part.split_once('=')?;
        let number = number.parse().ok().filter(|number| *number >= FIRST_FD)?;
        Some((name.to_owned(), number))
    });
    sockets.filter(|_| mine).collect()
}

fn passed(env: &dyn Fn(&str) -> Option<OsString>) -> usize {
    let number = |name| env(name)?.to_str()?.parse::<usize>().ok();
    let mine = number("LISTEN_PID").is_some_and(|pid| u32::try_from(pid) == Ok(std::process::id()));
    // More than a service file can name are a mistake of somebody's.
    number("LISTEN_FDS").filter(|_| mine).unwrap_or(0).min(64)
}

#[allow(unsafe_code)]
fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: by sd_listen_fds(3) this descriptor was opened for this process
    // and is nobody else's; whether it is open at all is asked before it is
    // used, and a closed one is never kept as owned.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match fcntl_getfl(fd.as_fd()) {
        Ok(_) => {
            fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
            Ok(fd)
        }
        Err(error) => {
            std::mem::forget(fd);
            Err(error.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn env(vars: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        let vars: HashMap<String, OsString> =
            vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
        move |name| vars.get(name).cloned()
    }

    #[test]
    fn what_is_said_arrives_at_either_kind_of_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("inn-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let abstractly = UnixDatagram::bind_addr(&address).unwrap();
        for (name, socket) in
            [(path.to_str().unwrap().to_owned(), by_path), (format!("@{name}"), abstractly)]
        {
            let init = InitSystem::find_in(&env(&[("NOTIFY_SOCKET", &name)])).unwrap();
            init.say(&[Said::Ready, Said::Status("two\nlines")]).unwrap();
            init.say(&[Said::Reloading]).unwrap();
            let mut buffer = [0; 256];
            let n = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], b"READY=1\nSTATUS=two lines\n");
            let n = socket.recv(&mut buffer).unwrap();
            let text = std::str::from_utf8(&buffer[..n]).unwrap();
            let micros = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(micros.trim().parse::<u64>().unwrap() > 0);
        }
    }

    #[test]
    fn nobody_to_tell_is_no_error() {
        let init = InitSystem::find_in(&env(&[])).unwrap();
        init.say(&[Said::Ready]).unwrap();
        assert_eq!(init.watchdog(), None);
    }

    #[test]
    fn only_what_is_meant_for_this_process_counts() {
        let me = std::process::id().to_string();
        let watched = |vars: &[(&str, &str)]| watchdog(&env(vars));
        let second = Some(Duration::from_secs(1));
        assert_eq!(watched(&[("WATCHDOG_USEC", "1000000")]), second);
        assert_eq!(watched(&[("WATCHDOG_USEC", "1000000"), ("WATCHDOG_PID", &me)]), second);
        assert_eq!(watched(&[("WATCHDOG_USEC", "1000000"), ("WATCHDOG_PID", "1")]), None);
        assert_eq!(watched(&[("WATCHDOG_USEC", "0")]), None);
        assert_eq!(passed(&env(&[("LISTEN_FDS", "2"), ("LISTEN_PID", &me)])), 2);
        assert_eq!(passed(&env(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "1")])), 0);
        assert_eq!(passed(&env(&[("LISTEN_FDS", "2")])), 0);
        let given = |text: &str| handed(&env(&[(HANDED_SOCKETS, text)]));
        let both = vec![("own".to_owned(), 27), ("tcp".to_owned(), 3)];
        assert_eq!(given(&format!("{me}:own=27:x=:y:z=2:tcp=3")), both);
        assert_eq!(given("1:own=27"), []);
        assert_eq!(given(""), []);
    }
}
