//! The system calls that need `unsafe`: ioctls and signals. Starting a process
//! is `process`'s.

use std::ffi::{c_char, c_int};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

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

/// Any signal's number, real-time ones included, to a process, or to the group
/// whose number is negated.
pub(super) fn send_signal(target: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill touches no memory of ours.
    check(unsafe { libc::kill(target, signal) })
}

/// Every process but ourselves (and, as anyone but PID 1, much else).
pub(crate) fn signal_all(signal: i32) -> io::Result<()> {
    send_signal(-1, signal)
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

/// How many heaps the allocator makes, from which size on it maps pieces one by
/// one, and how much it keeps at a heap's end (mallopt(3)). What it refuses
/// stays as it was.
pub(crate) fn limit_heaps(heaps: c_int, mapped_from: c_int, kept: c_int) {
    // SAFETY: integers alone; called before there is a second thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, heaps);
        libc::mallopt(libc::M_MMAP_THRESHOLD, mapped_from);
        libc::mallopt(libc::M_TRIM_THRESHOLD, kept);
    }
}

/// Where the heap ends now (sbrk(2)).
pub(crate) fn heap_end() -> usize {
    // SAFETY: by 0 it moves nothing.
    unsafe { libc::sbrk(0) as usize }
}

/// Gives memory that was freed back to the kernel (malloc_trim(3)), and keeps
/// it from coming again in huge pages: of what lies above `heap_start`, one
/// byte that is used again would take 2 MiB.
pub(crate) fn give_back_freed(heap_start: usize) {
    // SAFETY: thread safe, and touches only what the allocator holds as free.
    unsafe {
        libc::malloc_trim(0);
    }
    let length = heap_end().saturating_sub(heap_start);
    // SAFETY: advice about pages of the heap, which changes none of them. A
    // kernel without huge pages refuses it, and needs none.
    unsafe {
        libc::madvise(heap_start as *mut libc::c_void, length, libc::MADV_NOHUGEPAGE);
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

/// What it sends leaves by this interface, and nothing else arrives (socket(7)).
pub(super) fn bind_to_device(socket: BorrowedFd<'_>, interface: &str) -> io::Result<()> {
    let length = libc::socklen_t::try_from(interface.len()).unwrap_or_default();
    // SAFETY: as many bytes as are said, which live through the call.
    let result = unsafe {
        let (fd, level, option) = (socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE);
        libc::setsockopt(fd, level, option, interface.as_ptr().cast(), length)
    };
    check(result)
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
