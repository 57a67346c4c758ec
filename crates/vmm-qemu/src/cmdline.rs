//! The kernel arguments that QEMU's machines need and those that make a guest
//! boot fast. None of them is personal to a VM.
//!
//! Seconds matter most without KVM: an emulated CPU takes about a second to
//! get to init, and each thing that the kernel sets up and a VM never uses is
//! some milliseconds of it. Measured with `cargo xtask bench`; see
//! docs/benchmarks.md.
//!
//! Deliberately absent, although they are faster still: `nolapic_timer` (9 of
//! 40 boots at a time hung) and `nosmp` (so does the I/O APIC's routing).

use inn_vmm::Accel;

use crate::MachineType;

/// For both machines, with and without KVM.
const ALWAYS: &[&str] = &[
    "console=ttyS0",
    // A reboot is a triple fault, which ends QEMU under `-no-reboot`: there
    // is no keyboard controller on microvm to ask first.
    "reboot=t",
    // A panic resets at once, and so ends the machine, its reason in the
    // console's log. 0 would wait for ever.
    "panic=-1",
    // Each line on an emulated serial port costs an exit per byte. Errors
    // (CONFIG_CONSOLE_LOGLEVEL_QUIET is 4, a warning) and panics still show:
    // they are what explains a boot that failed.
    "quiet",
    // One port is there: the probing of three others is skipped.
    "8250.nr_uarts=1",
    // Self tests of the kernel's ciphers.
    "cryptomgr.notests",
    // Locks stay as compiled for many CPUs. With one CPU the kernel would
    // patch each of them out: 130 to 190 ms under TCG, which has to translate
    // the patched code again, and nothing worth it otherwise.
    "noreplace-smp",
    // The guest's first random numbers come from RDRAND, which KVM passes
    // through and TCG serves from the host's getrandom(2): no wait for
    // entropy. What is restored from a snapshot is seeded again.
    "random.trust_cpu=on",
    // Neither is used by what runs as PID 1 here; each costs some
    // initialisation and a hook per system call. The wall around the guest is
    // the VM.
    "audit=0",
    "lsm=",
];

/// Where the CPU is emulated.
const EMULATED: &[&str] = &[
    // TCG speculates nothing, so there is nothing to mitigate; and emulated,
    // each barrier costs an exit from translated code. Never under KVM: there
    // the guest's processes do share a speculating CPU.
    "mitigations=off",
    // Zeroing of all pages on allocation, against leaks between the guest's
    // own processes: 60 ms of a boot.
    "init_on_alloc=0",
    // Would wait for timer interrupts and hangs for a second, or gives up on
    // the timer, while the host is busy.
    "no_timer_check",
    // The counter is the host's own; the watchdog would compare it with a
    // timer that is late on a busy host, and drop it.
    "tsc=reliable",
];

/// Initcalls that no VM of ours needs, skipped where that was proven to work
/// and pays: on microvm under TCG, 80 to 100 ms. On q35 it ends in an oops;
/// under KVM the guest keeps all of its kernel.
///
/// Names that a kernel doesn't have are ignored, so another version only
/// loses the gain.
const EMULATED_MICROVM_SKIPS: &[&str] = &[
    // Tracing and probes.
    "init_kprobe_trace",
    "init_uprobe_trace",
    "trace_eval_init",
    "init_trace_printk_function_export",
    // Keys, certificates, integrity: nothing is signed in here.
    "load_system_certificate_list",
    "init_ima",
    "init_encrypted",
    "crypto_kdf108_init",
    // TCP falls back to Reno. It is the first to register with BPF, for which
    // the kernel's whole type information is read.
    "cubictcp_register",
    // Devices and interfaces that the machine doesn't have or nobody reads.
    "msr_init",
    "cmos_init",
    "vga_arb_device_init",
    "thermal_init",
    "ras_init",
    "slab_sysfs_init",
    "ksm_init",
];

/// What the kernel has to be told on this machine. `tsc_khz` is the rate of
/// the *host's* time stamp counter, if it is known and constant.
///
/// Under TCG the guest reads that very counter, offset by a constant
/// (`cpu_get_ticks` in QEMU), and calibrating it against emulated timers hangs
/// on a busy host. A wrong rate would make the guest's clock run wrong by the
/// same factor, so only a measured one belongs here. Under KVM the guest is
/// told its rate by kvmclock, which also knows about scaled counters.
pub fn kernel_args(machine: MachineType, accel: Accel, tsc_khz: Option<u32>) -> String {
    let mut args: Vec<String> = ALWAYS.iter().map(|&arg| arg.to_owned()).collect();
    if accel == Accel::Tcg {
        args.extend(EMULATED.iter().map(|&arg| arg.to_owned()));
        args.extend(tsc_khz.map(|khz| format!("tsc_early_khz={khz}")));
    }
    if machine == MachineType::Microvm && accel == Accel::Tcg {
        args.push(format!("initcall_blacklist={}", EMULATED_MICROVM_SKIPS.join(",")));
    }
    args.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// COMMAND_LINE_SIZE on x86 (arch/x86/include/asm/setup.h), less half for
    /// what others add.
    const ROOM: usize = 2048 / 2;

    fn all() -> impl Iterator<Item = (MachineType, Accel, String)> {
        let machines = [MachineType::Microvm, MachineType::Q35];
        machines.into_iter().flat_map(|machine| {
            [Accel::Kvm, Accel::Tcg]
                .map(|accel| (machine, accel, kernel_args(machine, accel, Some(2_600_000))))
        })
    }

    fn has(args: &str, arg: &str) -> bool {
        args.split(' ').any(|a| a == arg || a.starts_with(&format!("{arg}=")))
    }

    #[test]
    fn a_cpu_that_speculates_keeps_its_mitigations() {
        for (machine, accel, args) in all() {
            assert_eq!(has(&args, "mitigations"), accel == Accel::Tcg, "{machine:?} {accel:?}");
            assert_eq!(has(&args, "tsc_early_khz"), accel == Accel::Tcg, "{machine:?} {accel:?}");
        }
        assert!(!has(&kernel_args(MachineType::Microvm, Accel::Tcg, None), "tsc_early_khz"));
    }

    #[test]
    fn initcalls_are_skipped_where_it_was_proven() {
        for (machine, accel, args) in all() {
            let proven = machine == MachineType::Microvm && accel == Accel::Tcg;
            assert_eq!(has(&args, "initcall_blacklist"), proven, "{machine:?} {accel:?}");
        }
    }

    #[test]
    fn nothing_that_hangs_or_fills_the_command_line() {
        for (machine, accel, args) in all() {
            for arg in ["nolapic_timer", "nosmp", "acpi"] {
                assert!(!has(&args, arg), "{arg} with {machine:?} {accel:?}");
            }
            assert!(args.len() < ROOM, "{} bytes with {machine:?} {accel:?}", args.len());
        }
    }
}
