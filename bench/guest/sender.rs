//! A guest that sends zeros to its host until that has enough: for what goes
//! through a network card. `cargo xtask bench` compiles this one file with
//! rustc, statically, and boots it as PID 1 from an initramfs of the same
//! kernel modules as inn's own. Its card has 10.213.0.2/24, its host listens
//! at 10.213.0.1, port 5001.

use std::ffi::{CString, c_char, c_int, c_long, c_ulong, c_void};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process;

const OWN: [u8; 4] = [10, 213, 0, 2];
const MASK: [u8; 4] = [255, 255, 255, 0];
const HOST: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 213, 0, 1), 5001);

unsafe extern "C" {
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
}

// <asm/unistd_64.h>, <sys/socket.h>, <linux/sockios.h> and <linux/if.h>.
const SYS_FINIT_MODULE: c_long = 313;
const AF_INET: u16 = 2;
const SOCK_DGRAM: c_int = 2;
const SIOCSIFFLAGS: c_ulong = 0x8914;
const SIOCSIFADDR: c_ulong = 0x8916;
const SIOCSIFNETMASK: c_ulong = 0x891C;
const IFF_UP: [u8; 4] = [1, 0, 0, 0];

/// <linux/if.h>, `struct ifreq`: of its union, a `sockaddr_in` or flags.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    head: [u8; 4],
    address: [u8; 4],
    rest: [u8; 16],
}

fn main() {
    // PID 1's end is a kernel panic, which ends the machine.
    if let Err(error) = send() {
        println!("sender: {error}");
        process::exit(1);
    }
}

fn send() -> io::Result<()> {
    for (kind, at) in [(c"sysfs", "/sys"), (c"devtmpfs", "/dev")] {
        let target = CString::new(at)?;
        // SAFETY: mount(2) with C strings that live to the end of the call.
        let done = unsafe {
            mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null())
        };
        check(done, at)?;
    }
    for module in fs::read_to_string("/modules/load")?.lines() {
        let file = File::open(format!("/modules/{module}"))?;
        // SAFETY: finit_module(2): an open descriptor, an empty C string, no flags.
        let done = unsafe { syscall(SYS_FINIT_MODULE, file.as_raw_fd(), c"".as_ptr(), 0) };
        check(done as c_int, module)?;
    }
    while !Path::new("/sys/class/net/eth0").exists() {
        std::thread::yield_now();
    }
    // SAFETY: socket(2) takes numbers only.
    let card = unsafe { socket(c_int::from(AF_INET), SOCK_DGRAM, 0) };
    check(card, "socket")?;
    let [low, high] = AF_INET.to_ne_bytes();
    let inet = [low, high, 0, 0];
    for (request, head, address) in
        [(SIOCSIFADDR, inet, OWN), (SIOCSIFNETMASK, inet, MASK), (SIOCSIFFLAGS, IFF_UP, [0; 4])]
    {
        let mut name = [0; 16];
        name[..4].copy_from_slice(b"eth0");
        let asked = InterfaceRequest { name, head, address, rest: [0; 16] };
        // SAFETY: netdevice(7): these take a pointer to a whole `struct ifreq`.
        check(unsafe { ioctl(card, request, &raw const asked) }, "eth0")?;
    }
    let mut stream = TcpStream::connect(HOST)?;
    let zeros = vec![0; 256 * 1024];
    loop {
        stream.write_all(&zeros)?;
    }
}

fn check(done: c_int, what: &str) -> io::Result<()> {
    if done >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(io::Error::new(error.kind(), format!("{what}: {error}")))
}
