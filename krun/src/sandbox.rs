//! What a VMM that its guest has taken over cannot ask of the host's kernel.
//!
//! A list of what is refused, as QEMU's sandbox has one: libkrun has no list of
//! what it needs, and one of ours would end machines by its next version. None
//! of these is of use to a machine that is built.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// Other programs and processes, and those of others.
const PROCESSES: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_personality,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
];

/// The host's file systems.
const MOUNTS: &[i64] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
];

/// The host itself, and its kernel where it had most holes.
const HOST: &[i64] = &[
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// linux/sched.h: what is made without it is no thread but a process.
const CLONE_THREAD: u64 = libc::CLONE_THREAD as u64;

/// From now on, for this thread and those that it begins.
pub(crate) fn enter() -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("filtering system calls: {error}");
    for program in programs().map_err(|error| failed(&error))? {
        apply_filter(&program).map_err(|error| failed(&error))?;
    }
    Ok(())
}

fn programs() -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> =
        [PROCESSES, MOUNTS, HOST].concat().into_iter().map(|call| (call, Vec::new())).collect();
    let when = |argument, operator, value| {
        let length = SeccompCmpArgLen::Dword;
        let condition = SeccompCondition::new(argument, length, operator, value)?;
        SeccompRule::new(vec![condition])
    };
    // A process is a clone that is no thread.
    let no_thread = when(0, SeccompCmpOp::MaskedEq(CLONE_THREAD), 0)?;
    refused.insert(libc::SYS_clone, vec![no_thread]);
    // A guest's vsock is unix sockets, and nothing else is.
    let beyond = when(0, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?;
    refused.insert(libc::SYS_socket, vec![beyond]);
    // What it is asked for lies in memory, where no filter looks: as if the
    // kernel did not have it, and the C library asks for a clone.
    let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    Ok([filter(unknown, libc::ENOSYS)?, filter(refused, libc::EPERM)?])
}

fn filter(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    errno: i32,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let refusal = SeccompAction::Errno(errno.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch)?.try_into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::UdpSocket;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "it is the start of a program that is refused")]
    fn a_machine_has_threads_and_no_processes() {
        // A filter stays: it is this thread's alone.
        let confined = std::thread::spawn(|| {
            enter().unwrap();
            let thread = std::thread::spawn(|| 7).join().unwrap();
            let program = std::process::Command::new("true").spawn().map(drop);
            let socket = UdpSocket::bind("127.0.0.1:0").map(drop);
            let namespace = rustix::process::chroot("/").map_err(std::io::Error::from);
            (thread, program, socket, namespace, UnixStream::pair().map(drop))
        });
        let (thread, program, socket, namespace, pair) = confined.join().unwrap();
        assert_eq!(thread, 7);
        for refused in [program, socket, namespace] {
            let number = refused.unwrap_err().raw_os_error();
            assert_eq!(number, Some(libc::EPERM));
        }
        pair.unwrap();
        // Others go on as before.
        UdpSocket::bind("127.0.0.1:0").unwrap();
    }
}
