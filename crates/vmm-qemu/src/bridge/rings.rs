//! Whether a bridge is ready for connections, by what the kernel tells of it.
//!
//! ```text
//!   guest's driver starts: SET_MEM_TABLE ──▶ kick of ring 0 ──▶ kick of ring 1
//!      hangs up on all   │    a connection ends its worker    │   serves
//! ```
//!
//! The bridge learns the guest's memory before its rings. For the fraction of a
//! millisecond between the two, longer on a busy host, its worker ends on any
//! event of a connection, as it finds its rings not ready (vhu_vsock.rs and
//! vhu_vsock_thread.rs of version 0.3.0; event_loop.rs of vhost-user-backend
//! 0.20.0: an error of `handle_event` ends the loop), and nobody is served ever
//! after. So nobody may connect before it watches both rings' kicks. That is seen
//! in its epoll instance, in which the event's number is the ring's (proc(5),
//! "/proc/pid/fdinfo").

use std::{fs, io};

/// The thread that serves the rings (daemon.rs of vhost-user-backend).
const WORKER: &str = "vring_worker";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The guest's driver has not started the device, or not wholly.
    NotStarted,
    Serving,
    /// There is no worker by that name: it has ended, or is another program's.
    NoWorker,
}

/// Looks at a bridge's process. Errors: it has gone, or is not ours to look at.
pub(super) fn stage(pid: u32) -> io::Result<Stage> {
    if !threads(pid)?.iter().any(|thread| thread.name == WORKER) {
        return Ok(Stage::NoWorker);
    }
    if !watches_rings(pid)? {
        return Ok(Stage::NotStarted);
    }
    // Watched is not yet ready, but a few instructions later of the same thread,
    // which sleeps only when it waits for the next message.
    match threads(pid)?.iter().all(|thread| thread.sleeps) {
        true => Ok(Stage::Serving),
        false => Ok(Stage::NotStarted),
    }
}

fn watches_rings(pid: u32) -> io::Result<bool> {
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // Closed since.
        let Ok(info) = fs::read_to_string(entry?.path()) else { continue };
        if watches_both(&info) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Lines of an epoll instance: `tfd: 12 events: 1 data: 0 pos:0 …`, the data
/// hexadecimal. Its other instance has descriptors as data, 3 and above.
fn watches_both(fdinfo: &str) -> bool {
    let watches = |ring: u64| {
        fdinfo.lines().filter(|line| line.starts_with("tfd:")).any(|line| {
            let mut words = line.split_whitespace().skip_while(|word| *word != "data:");
            words.nth(1).and_then(|data| u64::from_str_radix(data, 16).ok()) == Some(ring)
        })
    };
    watches(0) && watches(1)
}

#[derive(Debug, PartialEq, Eq)]
struct Thread {
    name: String,
    sleeps: bool,
}

fn threads(pid: u32) -> io::Result<Vec<Thread>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        // Ended since.
        let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else { continue };
        threads.extend(thread(&stat));
    }
    Ok(threads)
}

/// Of `PID (NAME) STATE …`; the name may hold parentheses itself.
fn thread(stat: &str) -> Option<Thread> {
    let (_pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    Some(Thread { name: name.to_owned(), sleeps: rest.starts_with('S') })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_rings_are_seen_in_an_epoll_instance() {
        let line = |data: &str| {
            format!("tfd:       12 events:       19 data: {data:>16}  pos:0 ino:3 sdev:10\n")
        };
        let head = "pos:\t0\nflags:\t02\nmnt_id:\t16\nino:\t1058\n";
        let of = |data: &[&str]| {
            watches_both(&(head.to_owned() + &data.iter().map(|d| line(d)).collect::<String>()))
        };
        assert!(of(&["3", "4", "5", "0", "1"]));
        assert!(!of(&["3", "4", "5", "0"]), "one ring of two");
        assert!(!of(&["3", "10", "11"]), "descriptors, in hexadecimal");
        assert!(!of(&[]));
        assert!(!watches_both("tfd: data:\ntfd: 1 data: x\nnonsense\n"));
    }

    #[test]
    fn threads_are_told_by_name_and_state() {
        let of = |stat: &str| thread(stat).map(|thread| (thread.name, thread.sleeps));
        assert_eq!(of("7 (vring_worker) S 1 7 7 0 -1"), Some((WORKER.to_owned(), true)));
        assert_eq!(of("7 (odd) name) R 1"), Some(("odd) name".to_owned(), false)));
        assert_eq!(of("7 (cut"), None);
    }

    #[test]
    fn a_process_without_such_a_worker_is_told() {
        assert_eq!(stage(std::process::id()).unwrap(), Stage::NoWorker);
        assert!(stage(u32::MAX).is_err());
    }
}
