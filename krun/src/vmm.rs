//! The process that libkrun never gives back.

use std::ffi::{CString, c_char, c_int};
use std::fs;
use std::io::Read;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use inn_vmm::kept::NOT_STARTED;
use inn_vmm_krun::protocol::{Orders, PORT, VSOCK};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{Gid, set_thread_groups};

use crate::sandbox;

/// What the VMM has of the machine's pipes.
pub(crate) struct Inside {
    pub(crate) serial_in: OwnedFd,
    pub(crate) serial_out: OwnedFd,
    /// A byte goes here once the machine runs.
    pub(crate) starting: OwnedFd,
    /// Ends with the keeper.
    pub(crate) lifeline: OwnedFd,
    pub(crate) card: Option<OwnedFd>,
}

/// include/libkrun.h, `KRUN_LOG_LEVEL_WARN` and what is beside it.
const LOG_TO_STDERR: c_int = 2;
const LOG_WARNINGS: u32 = 2;
const LOG_PLAIN: u32 = 2;
const LOG_NO_ENVIRONMENT: u32 = 1;

/// include/libkrun.h, `KRUN_KERNEL_FORMAT_ELF`.
const ELF: u32 = 1;

/// The threads that run the guest, by their names (krun-vmm, linux/vstate.rs):
/// there are some once the machine is built.
const VCPU: &str = "fc_vcpu";

/// Between two looks for them: nothing tells when they begin.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Builds the machine and runs it. Returns only what went wrong.
pub(crate) fn enter(orders: &Orders, inside: Inside) -> String {
    match prepare(orders, inside) {
        Ok(context) => {
            let status = krun::krun_start_enter(context);
            format!("libkrun could not start the machine: {}", reason(status))
        }
        Err(error) => error,
    }
}

#[allow(unsafe_code)]
fn prepare(orders: &Orders, inside: Inside) -> Result<u32, String> {
    let Inside { serial_in, serial_out, starting, lifeline, card } = inside;
    // SAFETY: it takes numbers alone, and standard error stays open.
    done("krun_init_log", unsafe {
        krun::krun_init_log(LOG_TO_STDERR, LOG_WARNINGS, LOG_PLAIN, LOG_NO_ENVIRONMENT)
    })?;
    let context = krun::krun_create_ctx();
    let context = u32::try_from(context)
        .map_err(|_| format!("krun_create_ctx failed: {}", reason(context)))?;
    done("krun_set_vm_config", krun::krun_set_vm_config(context, orders.vcpus, orders.memory_mib))?;
    let (kernel, cmdline) = (text(&orders.kernel)?, text(&orders.cmdline)?);
    let initramfs = orders.initramfs.as_deref().map(text).transpose()?;
    let initramfs: *const c_char =
        initramfs.as_ref().map_or(std::ptr::null(), |path| path.as_ptr());
    // SAFETY: here and below: strings end with a zero and live longer than the
    // call, which copies them; a null initramfs means none.
    done("krun_set_kernel", unsafe {
        krun::krun_set_kernel(context, kernel.as_ptr(), ELF, initramfs, cmdline.as_ptr())
    })?;
    done("krun_disable_implicit_vsock", krun::krun_disable_implicit_vsock(context))?;
    // Without TSI: no socket of the guest's is one of the host's.
    done("krun_add_vsock", krun::krun_add_vsock(context, 0))?;
    let socket = text(VSOCK)?;
    // SAFETY: see above.
    done("krun_add_vsock_port2", unsafe {
        krun::krun_add_vsock_port2(context, PORT, socket.as_ptr(), true)
    })?;
    for disk in &orders.disks {
        let (serial, path) = (text(&disk.serial)?, text(&disk.path)?);
        // SAFETY: see above. The format is raw, and never probed for.
        done("krun_add_disk", unsafe {
            krun::krun_add_disk(context, serial.as_ptr(), path.as_ptr(), disk.read_only)
        })?;
    }
    if let (Some(order), Some(card)) = (orders.card, card) {
        // SAFETY: the address has six bytes and is copied; a null path means
        // the descriptor, which is libkrun's from here on.
        done("krun_add_net_unixgram", unsafe {
            krun::krun_add_net_unixgram(
                context,
                std::ptr::null(),
                card.into_raw_fd(),
                order.mac.as_ptr(),
                0,
                0,
            )
        })?;
    }
    done("krun_disable_implicit_console", krun::krun_disable_implicit_console(context))?;
    // SAFETY: both descriptors are libkrun's from here on.
    done("krun_add_serial_console_default", unsafe {
        krun::krun_add_serial_console_default(
            context,
            serial_in.into_raw_fd(),
            serial_out.into_raw_fd(),
        )
    })?;
    if let Some(user) = &orders.user {
        let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
        set_thread_groups(&groups).map_err(|error| format!("leaving our groups: {error}"))?;
        // It becomes that user after its disks are opened, and before the guest
        // is there.
        done("krun_setgid", krun::krun_setgid(context, user.uid))?;
        done("krun_setuid", krun::krun_setuid(context, user.uid))?;
    }
    sandbox::enter()?;
    std::thread::Builder::new()
        .name("watch".to_owned())
        .spawn(move || watch(starting, lifeline))
        .map_err(|error| format!("starting a thread: {error}"))?;
    Ok(context)
}

/// Tells the keeper that the machine runs, and ends it when that one does, also
/// where a change of the user has taken the death signal back (prctl(2)).
fn watch(starting: OwnedFd, lifeline: OwnedFd) {
    // Nobody ever sends: it is a sleep.
    let (_never, pause) = sync_channel::<()>(0);
    while !has_vcpu() {
        let _timed_out = pause.recv_timeout(LOOK_EVERY);
    }
    let _first = set_parent_process_death_signal(Some(Signal::KILL));
    let _keeper_gone = rustix::io::write(&starting, b"+");
    drop(starting);
    let _end = fs::File::from(lifeline).read(&mut [0]);
    std::process::exit(NOT_STARTED)
}

fn has_vcpu() -> bool {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return false };
    tasks.flatten().any(|task| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with(VCPU))
    })
}

fn text(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?} has a zero byte in it"))
}

fn done(what: &str, status: i32) -> Result<(), String> {
    match status {
        0 => Ok(()),
        status => Err(format!("{what} failed: {}", reason(status))),
    }
}

/// libkrun answers with errno's numbers, negated.
fn reason(status: i32) -> String {
    std::io::Error::from_raw_os_error(status.saturating_neg()).to_string()
}
