//! The system calls that need `unsafe`: starting a process, ioctls, signals.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Everything a child needs, made before it exists: between its birth and its
/// program it shares our memory and may not allocate.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// Tried in order: the program's places along PATH.
    pub(crate) candidates: &'a [CString],
    pub(crate) argv: &'a [CString],
    pub(crate) env: &'a [CString],
    pub(crate) cwd: &'a CStr,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: &'a [u32],
    pub(crate) stdin: BorrowedFd<'a>,
    pub(crate) stdout: BorrowedFd<'a>,
    pub(crate) stderr: BorrowedFd<'a>,
    /// Make stdin its controlling terminal.
    pub(crate) terminal: bool,
    pub(crate) stable_addresses: bool,
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
    launch: &'a Launch<'a>,
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
pub(crate) fn launch(launch: &Launch<'_>) -> Result<i32, LaunchError> {
    let mut child = Child {
        launch,
        candidates: launch.candidates.iter().map(|c| c.as_ptr()).collect(),
        argv: with_null(launch.argv),
        env: with_null(launch.env),
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

/// # Safety
/// Only in a fresh child, with all pointers of `child` valid.
unsafe fn become_program(child: &Child<'_>) -> Result<(), Step> {
    let launch = child.launch;
    let check = |result: c_int, step: Step| if result < 0 { Err(step) } else { Ok(()) };
    let check_long = |result: libc::c_long, step: Step| if result < 0 { Err(step) } else { Ok(()) };
    // SAFETY: plain system calls on values that outlive them.
    unsafe {
        // Rust ignores SIGPIPE, and what is ignored stays so across exec.
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(libc::SIGPIPE, &raw const default, ptr::null_mut());
        check(libc::setsid(), Step::Session)?;
        if launch.terminal {
            check(libc::ioctl(launch.stdin.as_raw_fd(), libc::TIOCSCTTY, 0), Step::Terminal)?;
        }
        // The parent's descriptors 0 to 2 are open, so none of ours is among
        // them and dup2 always clears close-on-exec.
        for (fd, target) in [(launch.stdin, 0), (launch.stdout, 1), (launch.stderr, 2)] {
            check(libc::dup2(fd.as_raw_fd(), target), Step::Descriptors)?;
        }
        libc::umask(0o022);
        if launch.uid != 0 || launch.gid != 0 || !launch.groups.is_empty() {
            let groups = launch.groups;
            let set = libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr());
            check_long(set, Step::Identity)?;
            let gid = launch.gid;
            check_long(libc::syscall(libc::SYS_setresgid, gid, gid, gid), Step::Identity)?;
            let uid = launch.uid;
            check_long(libc::syscall(libc::SYS_setresuid, uid, uid, uid), Step::Identity)?;
        }
        check(libc::chdir(launch.cwd.as_ptr()), Step::WorkingDirectory)?;
        if launch.stable_addresses {
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

/// A descriptor whose readiness the runtime tells.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor as long as it lives,
    // and the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Reads at most `limit` bytes into the free space of `buffer`, which must
/// have some.
pub(crate) fn read_spare(
    fd: BorrowedFd<'_>,
    buffer: &mut bytes::BytesMut,
    limit: usize,
) -> rustix::io::Result<usize> {
    let spare = buffer.spare_capacity_mut();
    let length = spare.len().min(limit);
    let (filled, _) = rustix::io::read(fd, &mut spare[..length])?;
    let count = filled.len();
    // SAFETY: the kernel initialised the first `count` bytes of the free space.
    unsafe { buffer.set_len(buffer.len() + count) };
    Ok(count)
}

/// Any signal's number, real-time ones included, to a process group.
pub(crate) fn signal_group(group: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill touches no memory of ours.
    check(unsafe { libc::kill(-group, signal) })
}

/// Every process but ourselves (and, as anyone but PID 1, much else).
pub(crate) fn signal_all(signal: i32) -> io::Result<()> {
    // SAFETY: kill touches no memory of ours.
    check(unsafe { libc::kill(-1, signal) })
}

/// Blocks SIGCHLD for the calling thread and those it starts later, and gives
/// a descriptor that is readable when one is due.
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset; the descriptor is fresh
    // and ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// An IPv4 address of an interface, which is then brought up.
pub(crate) fn set_address(
    socket: BorrowedFd<'_>,
    interface: &str,
    address: Ipv4Addr,
    mask: Ipv4Addr,
) -> io::Result<()> {
    let mut request = interface_request(interface)?;
    request.ifr_ifru.ifru_addr = socket_address(address);
    request_interface(socket, libc::SIOCSIFADDR, &mut request)?;
    request.ifr_ifru.ifru_netmask = socket_address(mask);
    request_interface(socket, libc::SIOCSIFNETMASK, &mut request)
}

pub(crate) fn bring_up(socket: BorrowedFd<'_>, interface: &str) -> io::Result<()> {
    let mut request = interface_request(interface)?;
    request_interface(socket, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS filled exactly this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let up = libc::c_short::try_from(libc::IFF_UP).unwrap_or(1);
    request.ifr_ifru.ifru_flags = flags | up;
    request_interface(socket, libc::SIOCSIFFLAGS, &mut request)
}

pub(crate) fn add_default_route(socket: BorrowedFd<'_>, gateway: Ipv4Addr) -> io::Result<()> {
    // SAFETY: all zeros is a valid rtentry.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    // linux/route.h: usable, and by way of a gateway.
    route.rt_flags = RTF_UP | RTF_GATEWAY;
    // SAFETY: SIOCADDRT reads one rtentry.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &raw const route) };
    check(result)
}

/// linux/route.h.
const RTF_UP: libc::c_ushort = 1;
const RTF_GATEWAY: libc::c_ushort = 2;

fn request_interface(
    socket: BorrowedFd<'_>,
    request: libc::Ioctl,
    argument: &mut libc::ifreq,
) -> io::Result<()> {
    // SAFETY: the SIOC?IF* requests used here read and write one ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), request, ptr::from_mut(argument)) })
}

fn interface_request(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: all zeros is a valid sockaddr.
    let mut generic: libc::sockaddr = unsafe { std::mem::zeroed() };
    generic.sa_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or(2);
    // struct sockaddr_in (netinet/in.h): two bytes of port, four of address.
    for (to, from) in generic.sa_data[2..6].iter_mut().zip(address.octets()) {
        *to = c_char::from_ne_bytes([from]);
    }
    generic
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
