//! Starting programs, and signalling what has become of them.

use std::collections::BTreeMap;
use std::ffi::{CString, NulError, c_char, c_int, c_void};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::pipes::Theirs;
use super::raw;
use super::users::User;

/// The numbers of signal(7) that the host's end of things leads to.
pub(crate) const SIGHUP: i32 = libc::SIGHUP;
pub(crate) const SIGKILL: i32 = libc::SIGKILL;
pub(crate) const SIGTERM: i32 = libc::SIGTERM;

/// What starts a shell line.
pub(crate) const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Of an image that says nothing: the usual one of container engines.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program and all that it starts with, ready for any number of runs. Made
/// before there is a child: between its birth and its program a child shares
/// our memory and may not allocate.
#[derive(Debug)]
pub(crate) struct Program {
    /// Tried in order: the program's places along PATH.
    candidates: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
    user: User,
    stable_addresses: bool,
}

impl Program {
    /// Fails where a text has a NUL in it. `path` is where a name without a
    /// slash is looked for.
    pub(crate) fn new(
        argv: Vec<String>,
        env: Vec<String>,
        path: &str,
        cwd: &str,
        user: User,
    ) -> Result<Self, NulError> {
        let program = argv.first().map(String::as_str).unwrap_or_default();
        Ok(Self {
            candidates: strings(candidates(program, path))?,
            argv: strings(argv)?,
            env: strings(env)?,
            cwd: CString::new(cwd)?,
            user,
            stable_addresses: false,
        })
    }

    /// To run without address space randomisation (personality(2)).
    pub(crate) fn at_stable_addresses(self, stable: bool) -> Self {
        Self { stable_addresses: stable, ..self }
    }

    pub(crate) fn user(&self) -> &User {
        &self.user
    }

    pub(crate) fn cwd(&self) -> String {
        self.cwd.to_string_lossy().into_owned()
    }
}

/// Where the program may be, in the order of PATH (execvp(3)).
fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    path.split(':')
        .map(|dir| if dir.is_empty() { program.to_owned() } else { format!("{dir}/{program}") })
        .collect()
}

fn strings(texts: impl IntoIterator<Item = String>) -> Result<Vec<CString>, NulError> {
    texts.into_iter().map(CString::new).collect()
}

/// The step at which a child failed before its program ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Fork,
    Session,
    Terminal,
    Descriptors,
    Identity,
    WorkingDirectory,
    Program,
}

#[derive(Debug)]
pub(crate) struct LaunchError {
    pub(crate) step: Step,
    pub(crate) source: io::Error,
}

/// The child's stack. Between clone and exec it calls a handful of system
/// calls; execve copies arguments inside the kernel.
const STACK: usize = 64 * 1024;

struct Child<'a> {
    program: &'a Program,
    theirs: &'a Theirs,
    candidates: Vec<*const c_char>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    step: Step,
    errno: c_int,
}

/// Starts a program in a session and process group of its own and returns its
/// pid, which is also its group's.
///
/// The child borrows our memory until its program runs (CLONE_VM|CLONE_VFORK,
/// as posix_spawn does): no page table is copied, which under emulation takes
/// longer than the rest, and a failure is reported by writing it down.
pub(crate) fn launch(program: &Program, theirs: &Theirs) -> Result<i32, LaunchError> {
    theirs.give_to(program.user.uid, program.user.gid);
    let mut child = Child {
        program,
        theirs,
        candidates: program.candidates.iter().map(|c| c.as_ptr()).collect(),
        argv: with_null(&program.argv),
        env: with_null(&program.env),
        step: Step::Fork,
        errno: 0,
    };
    let mut stack: Vec<u128> = Vec::with_capacity(STACK / size_of::<u128>());
    // SAFETY: the stack grows down from its end, which is aligned to 16 bytes
    // as the ABI asks, and lives until the child has left it: with CLONE_VFORK
    // clone returns after the child's exec or exit. `child` outlives it for the
    // same reason. All signals are blocked around the call, so no handler runs
    // in the memory that both share.
    let pid = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let top = stack.as_mut_ptr().add(stack.capacity()).cast::<c_void>();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let pid = libc::clone(run_child, top, flags, (&raw mut child).cast::<c_void>());
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        if pid < 0 {
            return Err(LaunchError { step: Step::Fork, source: error });
        }
        pid
    };
    // SAFETY: the child wrote through the pointer it was given; a volatile read
    // keeps the compiler from knowing better.
    let (step, errno) = unsafe {
        (ptr::read_volatile(&raw const child.step), ptr::read_volatile(&raw const child.errno))
    };
    if errno != 0 {
        return Err(LaunchError { step, source: io::Error::from_raw_os_error(errno) });
    }
    Ok(pid)
}

fn with_null(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

/// Runs in the child, in our memory: system calls only, no allocation, no
/// panic. glibc's setuid family is avoided, since it signals all threads of
/// what it takes for its own process.
extern "C" fn run_child(child: *mut c_void) -> c_int {
    // SAFETY: `launch` passed a live `Child`, and nobody else runs with it.
    let child = unsafe { &mut *child.cast::<Child<'_>>() };
    // SAFETY: see `become_program`.
    if let Err(step) = unsafe { become_program(child) } {
        child.step = step;
        // SAFETY: errno is the calling thread's; the parent's thread waits.
        child.errno = unsafe { *libc::__errno_location() }.max(1);
    }
    // SAFETY: leaves without running exit handlers, which are the parent's.
    unsafe { libc::_exit(127) }
}

/// Whether a child has to give back what spares us when memory runs out.
static SPARED: AtomicBool = AtomicBool::new(false);

/// Where an init has told the kernel to spare the agent when memory runs out
/// (`OOMScoreAdjust`), what the agent starts is not spared with it.
pub(crate) fn spare_only_us() {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    SPARED.store(own.trim_end().starts_with('-'), Ordering::Relaxed);
}

/// # Safety
/// Only in a fresh child, with all pointers of `child` valid.
unsafe fn become_program(child: &Child<'_>) -> Result<(), Step> {
    let (program, theirs) = (child.program, child.theirs);
    let check = |result: c_int, step: Step| if result < 0 { Err(step) } else { Ok(()) };
    let check_long = |result: libc::c_long, step: Step| if result < 0 { Err(step) } else { Ok(()) };
    // SAFETY: plain system calls on values that outlive them.
    unsafe {
        // Rust ignores SIGPIPE, and what is ignored stays so across exec.
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(libc::SIGPIPE, &raw const default, ptr::null_mut());
        check(libc::setsid(), Step::Session)?;
        if SPARED.load(Ordering::Relaxed) {
            let flags = libc::O_WRONLY | libc::O_CLOEXEC;
            let score = libc::open(c"/proc/self/oom_score_adj".as_ptr(), flags);
            // Without /proc it stays as it is.
            if score >= 0 {
                libc::write(score, c"0".as_ptr().cast(), 1);
                libc::close(score);
            }
        }
        if theirs.is_terminal() {
            let terminal = theirs.stdin().as_raw_fd();
            check(libc::ioctl(terminal, libc::TIOCSCTTY, 0), Step::Terminal)?;
        }
        // The parent's descriptors 0 to 2 are open, so none of ours is among
        // them and dup2 always clears close-on-exec. All others are ours, made
        // with close-on-exec: there is nothing to close.
        for (fd, target) in [(theirs.stdin(), 0), (theirs.stdout(), 1), (theirs.stderr(), 2)] {
            check(libc::dup2(fd.as_raw_fd(), target), Step::Descriptors)?;
        }
        libc::umask(0o022);
        let User { uid, gid, groups, .. } = &program.user;
        if *uid != 0 || *gid != 0 || !groups.is_empty() {
            let set = libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr());
            check_long(set, Step::Identity)?;
            check_long(libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid), Step::Identity)?;
            check_long(libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid), Step::Identity)?;
        }
        check(libc::chdir(program.cwd.as_ptr()), Step::WorkingDirectory)?;
        if program.stable_addresses {
            // Only a matter of speed: what a kernel refuses is not missed.
            libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        // As execvp: a place that does not have it or does not let us is
        // passed over; "denied" wins over "not found" at the end.
        let mut denied = false;
        for candidate in &child.candidates {
            // An execve that finds nothing has made an address space first: the
            // look costs much less.
            let several = child.candidates.len() > 1;
            if several && libc::access(*candidate, libc::F_OK) < 0 {
                denied |= *libc::__errno_location() == libc::EACCES;
                continue;
            }
            libc::execve(*candidate, child.argv.as_ptr(), child.env.as_ptr());
            match *libc::__errno_location() {
                libc::EACCES => denied = true,
                libc::ENOENT | libc::ENOTDIR => {}
                _ => return Err(Step::Program),
            }
        }
        *libc::__errno_location() = if denied { libc::EACCES } else { libc::ENOENT };
    }
    Err(Step::Program)
}

/// The machine's name.
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Any signal's number, real-time ones included, to a process group. The group
/// may outlive the process that it is named after.
pub(crate) fn signal_group(group: i32, signal: i32) -> io::Result<()> {
    raw::send_signal(-group, signal)
}

/// What has come of one process: its group, its session, and its descendants
/// as far as their parents live. Only a daemon that was begun in a session of
/// its own and let go by its parent before the first look is none of them.
#[derive(Debug)]
pub(crate) struct Family {
    leader: i32,
    /// Those outside the group that were seen, with their times of birth: a
    /// pid alone may have become somebody else's.
    known: BTreeMap<i32, u64>,
}

/// Looks before a SIGKILL is taken to have met all: each may miss what is
/// forked meanwhile.
const LOOKS: usize = 4;

impl Family {
    pub(crate) fn new(leader: i32) -> Self {
        Self { leader, known: BTreeMap::new() }
    }

    /// Looks who there is, and signals all of them.
    pub(crate) fn signal(&mut self, signal: i32) {
        // Before anybody is told: with a parent's end its children are orphans,
        // and those in a session of their own nobody's.
        self.look(&census());
        // The group in one step: nobody of it can fork in between.
        let _gone = signal_group(self.leader, signal);
        let mut told = BTreeMap::new();
        for _ in 0..if signal == SIGKILL { LOOKS } else { 1 } {
            let mut more = false;
            for (pid, birth) in &self.known {
                if told.insert(*pid, *birth) != Some(*birth) {
                    more = true;
                    let _gone = raw::send_signal(*pid, signal);
                }
            }
            if !more {
                return;
            }
            self.look(&census());
        }
    }

    fn look(&mut self, all: &BTreeMap<i32, Entry>) {
        self.known.retain(|pid, birth| all.get(pid).is_some_and(|entry| entry.birth == *birth));
        let mut found = true;
        while std::mem::take(&mut found) {
            for (pid, entry) in all {
                let related = entry.session == self.leader
                    || entry.parent == self.leader
                    || self.known.contains_key(&entry.parent);
                // The group was told as a whole; its members are family too,
                // for what they may have begot.
                if related && *pid != self.leader && !self.known.contains_key(pid) {
                    self.known.insert(*pid, entry.birth);
                    found = true;
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    parent: i32,
    session: i32,
    birth: u64,
}

/// Everybody but us and init, from /proc.
fn census() -> BTreeMap<i32, Entry> {
    let ours = i32::try_from(std::process::id()).unwrap_or(1);
    let Ok(proc) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = proc.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| *pid != 1 && *pid != ours)
        .filter_map(|pid| {
            // Names are bytes: not always a text.
            let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, parse_stat(&String::from_utf8_lossy(&stat))?))
        })
        .collect()
}

/// proc_pid_stat(5): the second field is a name in parentheses that may hold
/// anything; parent is the 4th, session the 6th, birth the 22nd.
fn parse_stat(stat: &str) -> Option<Entry> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let birth = fields.nth(15)?.parse().ok()?;
    Some(Entry { parent, session, birth })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_looked_up_and_a_path_is_not() {
        assert_eq!(candidates("ls", "/a:/b"), ["/a/ls", "/b/ls"]);
        assert_eq!(candidates("./ls", "/a:/b"), ["./ls"]);
        assert_eq!(candidates("ls", ":/b"), ["ls", "/b/ls"]);
    }

    #[test]
    fn a_name_may_look_like_anything() {
        let stat = "42 (a) S 7 ) S 10 40 41 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 9999 1 1";
        assert_eq!(parse_stat(stat), Some(Entry { parent: 10, session: 41, birth: 9999 }));
        assert_eq!(parse_stat("42 (cut"), None);
        assert_eq!(parse_stat("42 (cut) S 1 2"), None);
    }

    #[test]
    fn our_own_entry_is_as_the_kernel_says() {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let entry = parse_stat(&stat).unwrap();
        assert_eq!(entry.parent.unsigned_abs(), std::os::unix::process::parent_id());
        assert!(entry.birth > 0);
    }

    #[test]
    fn children_of_children_and_of_the_session_are_family() {
        let entry = |parent, session, birth| Entry { parent, session, birth };
        let mut all = BTreeMap::from([
            (10, entry(1, 10, 100)),
            (11, entry(10, 11, 110)),
            (5, entry(11, 5, 120)),
            (12, entry(1, 10, 130)),
            (13, entry(1, 13, 140)),
        ]);
        let mut family = Family::new(10);
        family.look(&all);
        assert_eq!(family.known.keys().copied().collect::<Vec<_>>(), [5, 11, 12]);
        // The middle one is gone and its child an orphan: still known. Another
        // has the number of one that was: not known any more.
        all.remove(&11);
        all.insert(5, entry(1, 5, 120));
        all.insert(12, entry(1, 12, 999));
        family.look(&all);
        assert_eq!(family.known.keys().copied().collect::<Vec<_>>(), [5]);
    }
}
