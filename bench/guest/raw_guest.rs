//! The least that can answer an exec from inside a microVM: what `inn run` is
//! measured against. `cargo xtask bench` compiles this one file with rustc,
//! statically, and boots it as PID 1 from an initramfs of the same kernel
//! modules as inn's own.
//!
//! It loads the modules, joins the two disks to an overlay and switches to it,
//! just as inn-guest does, then speaks the simplest protocol that does the
//! job, on the same virtio-serial port: it writes `ready\n`, reads the path of
//! a program up to a newline, runs it, and writes `exit STATUS\n`.

use std::ffi::{CString, c_char, c_int, c_long, c_ulong, c_void};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{self, Command};

const PORT: &str = "innkeeper.agent.0";

unsafe extern "C" {
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn chroot(path: *const c_char) -> c_int;
    fn syscall(number: c_long, ...) -> c_long;
}

// <linux/mount.h> and <asm/unistd_64.h>.
const MS_RDONLY: c_ulong = 1;
const MS_MOVE: c_ulong = 8192;
const SYS_FINIT_MODULE: c_long = 313;

fn main() {
    if let Err(e) = serve() {
        println!("raw-guest: {e}");
        // PID 1's end is a kernel panic, which ends the machine.
        process::exit(1);
    }
}

fn serve() -> io::Result<()> {
    mount_at("sysfs", "/sys", "sysfs", 0, "")?;
    mount_at("devtmpfs", "/dev", "devtmpfs", 0, "")?;
    for module in fs::read_to_string("/modules/load")?.lines() {
        let file = File::open(format!("/modules/{module}"))?;
        // SAFETY: finit_module(2): an open descriptor, an empty C string, no flags.
        check(
            unsafe { syscall(SYS_FINIT_MODULE, file.as_raw_fd(), c"".as_ptr(), 0) } as c_int,
            module,
        )?;
    }
    mount_at(&disk("inn-root")?, "/lower", "ext4", MS_RDONLY, "")?;
    mount_at(&disk("inn-rw")?, "/rw", "ext4", 0, "")?;
    for dir in ["/rw/upper", "/rw/work"] {
        fs::create_dir_all(dir)?;
    }
    mount_at(
        "overlay",
        "/root",
        "overlay",
        0,
        "lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work",
    )?;
    for dir in ["/dev", "/sys"] {
        mount_at(dir, &format!("/root{dir}"), "", MS_MOVE, "")?;
    }
    std::env::set_current_dir("/root")?;
    mount_at("/root", "/", "", MS_MOVE, "")?;
    // SAFETY: chroot(2) with a C string.
    check(unsafe { chroot(c".".as_ptr()) }, "chroot")?;
    std::env::set_current_dir("/")?;

    let mut port = File::options().read(true).write(true).open(port_path()?)?;
    port.write_all(b"ready\n")?;
    let mut requests = BufReader::new(port.try_clone()?);
    let mut line = String::new();
    while requests.read_line(&mut line)? > 0 {
        let status = Command::new(line.trim_end()).status()?;
        port.write_all(format!("exit {}\n", status.code().unwrap_or(128)).as_bytes())?;
        line.clear();
    }
    Ok(())
}

/// The device node of the disk with this serial number.
fn disk(serial: &str) -> io::Result<String> {
    loop {
        for entry in fs::read_dir("/sys/block")? {
            let entry = entry?;
            if fs::read_to_string(entry.path().join("serial")).is_ok_and(|s| s.trim_end() == serial)
            {
                return Ok(format!("/dev/{}", entry.file_name().to_string_lossy()));
            }
        }
        std::thread::yield_now();
    }
}

/// Ports get their names some time after the driver's module was loaded.
fn port_path() -> io::Result<PathBuf> {
    loop {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten() {
            let entry = entry?;
            if fs::read_to_string(entry.path().join("name"))
                .is_ok_and(|name| name.trim_end() == PORT)
            {
                return Ok(PathBuf::from("/dev").join(entry.file_name()));
            }
        }
        std::thread::yield_now();
    }
}

fn mount_at(source: &str, target: &str, kind: &str, flags: c_ulong, data: &str) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let [source, at, kind, data] = [source, target, kind, data]
        .map(|s| CString::new(s).expect("a literal or a device's name"));
    // SAFETY: mount(2) with C strings that live to the end of the call.
    let rc =
        unsafe { mount(source.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    check(rc, target)
}

fn check(rc: c_int, what: &str) -> io::Result<()> {
    if rc == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(io::Error::new(error.kind(), format!("{what}: {error}")))
}
