//! Whether KVM works, found out by booting a guest under a deadline: on some
//! hosts /dev/kvm opens, creates VMs, and then runs them nowhere.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use inn_host::process::{Process, Signal, SpawnSpec};
use inn_units::{Bytes, Vcpus, VmId, format_duration};
use inn_vmm::{
    Accel, Boot, ChannelKind, Console, KernelBoot, LaunchError, Lifetime, MachineConfig, io_error,
};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::QemuRuntime;
use crate::args::{Wiring, args};
use crate::launch::{failed, open_log};

/// What inn-guest prints when its kernel was told `inn.probe`.
const PROOF: &[u8] = b"inn-guest: probe ok";

/// For QEMU's end after SIGKILL; a vCPU may be deep in the kernel.
const END: Duration = Duration::from_secs(30);

/// What the console may say before the proof: far more than a boot prints.
const MOST_TEXT: usize = 4 << 20;

/// Whether KVM is of use, and why, as a clause about it: `booted in 240 ms`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvmVerdict {
    pub usable: bool,
    pub reason: String,
    pub took: Duration,
}

impl QemuRuntime {
    /// Boots `kernel` and `initramfs` under KVM until the guest says so or the
    /// deadline is over. Leaves no process, and no file in `work_dir`.
    pub async fn probe_kvm(
        &self,
        kernel: &Path,
        initramfs: &Path,
        work_dir: &Path,
        deadline: Duration,
    ) -> KvmVerdict {
        self.probe(Accel::Kvm, kernel, initramfs, work_dir, deadline).await
    }

    async fn probe(
        &self,
        accel: Accel,
        kernel: &Path,
        initramfs: &Path,
        work_dir: &Path,
        deadline: Duration,
    ) -> KvmVerdict {
        let start = Instant::now();
        let verdict = |usable, reason| KvmVerdict { usable, reason, took: start.elapsed() };
        if accel == Accel::Kvm
            && let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm")
        {
            return verdict(false, why_not_opened(&error));
        }
        let config = guest(accel, kernel, initramfs);
        let (process, console) = match self.boot(&config, work_dir).await {
            Ok(booted) => booted,
            Err(error) => return verdict(false, format!("QEMU did not start: {error}")),
        };
        let mut guard = KillOnDrop(Some(process));
        let seen = tokio::time::timeout(deadline, wait_for_proof(console)).await;
        let took = start.elapsed();
        let ended = guard.end().await;
        match (seen, ended) {
            (_, Err(error)) => verdict(false, format!("QEMU under it cannot be ended: {error}")),
            (Ok(true), Ok(())) => {
                let reason = format!("booted in {}", format_duration(took));
                KvmVerdict { usable: true, reason, took }
            }
            (Ok(false), Ok(())) => {
                verdict(false, format!("gave up on the guest after {}", format_duration(took)))
            }
            (Err(_), Ok(())) => {
                verdict(false, format!("did not boot within {}", format_duration(deadline)))
            }
        }
    }

    async fn boot(
        &self,
        config: &MachineConfig,
        work_dir: &Path,
    ) -> Result<(Process, UnixStream), LaunchError> {
        let (ours, theirs) =
            StdUnixStream::pair().map_err(io_error("a socket pair in", work_dir))?;
        ours.set_nonblocking(true).map_err(io_error("a socket pair in", work_dir))?;
        let ours = UnixStream::from_std(ours).map_err(io_error("a socket pair in", work_dir))?;
        // Nobody reads what QEMU itself says, and nobody shall find it later.
        let path = work_dir.join(format!("probe-{}.log", std::process::id()));
        let log = open_log(&path)?;
        std::fs::remove_file(&path).map_err(io_error("removing", &path))?;

        let mut spec = SpawnSpec::new(self.binary(), log).leased(true);
        let wiring = Wiring::Probe { console: spec.inherit(theirs.into()) };
        let args = args(self.machine_for(&config.boot), config, wiring, self.found.tsc_khz().await)
            .map_err(|error| failed(error.to_string(), Vec::new()))?;
        Ok((self.found.spawn(spec.args(args)).await?, ours))
    }
}

fn guest(accel: Accel, kernel: &Path, initramfs: &Path) -> MachineConfig {
    MachineConfig {
        id: VmId::from_bytes([0; VmId::BYTES]),
        vcpus: Vcpus::ONE,
        memory: Bytes::mib(128),
        accel,
        boot: Boot::Kernel(KernelBoot {
            kernel: kernel.to_owned(),
            initramfs: Some(initramfs.to_owned()),
            cmdline: "inn.probe".to_owned(),
        }),
        from: None,
        disks: Vec::new(),
        nic: None,
        screen: false,
        generation_id: false,
        reboots_within: true,
        console: Console { log: "/dev/null".into(), log_limit: Bytes::mib(1) },
        channel: ChannelKind::Serial,
        run_dir: "/nonexistent".into(),
        lifetime: Lifetime::Leased,
        isolation: inn_vmm::Isolation::default(),
    }
}

/// False when the console closes or floods without it.
async fn wait_for_proof(mut console: UnixStream) -> bool {
    let mut text = Vec::new();
    while text.len() < MOST_TEXT {
        match console.read_buf(&mut text).await {
            Ok(0) | Err(_) => return false,
            Ok(n) => {
                let from = text.len().saturating_sub(n + PROOF.len());
                if text[from..].windows(PROOF.len()).any(|window| window == PROOF) {
                    return true;
                }
            }
        }
    }
    false
}

fn why_not_opened(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => {
            "there is no /dev/kvm: no such hardware, or kvm is not loaded".into()
        }
        ErrorKind::PermissionDenied => {
            "/dev/kvm may not be opened by this user; join the group kvm".into()
        }
        _ => format!("/dev/kvm cannot be opened: {error}"),
    }
}

/// Ends the probe's QEMU also when the probe is cancelled.
struct KillOnDrop(Option<Process>);

impl KillOnDrop {
    async fn end(&mut self) -> io::Result<()> {
        let Some(process) = &self.0 else { return Ok(()) };
        process.kill(Signal::KILL)?;
        tokio::time::timeout(END, process.wait()).await??;
        self.0 = None;
        Ok(())
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(process) = &self.0
            && let Err(error) = process.kill(Signal::KILL)
        {
            tracing::warn!(%error, "a probe's QEMU lives on");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_having_no_kvm_has_its_sentence() {
        let of = |kind: ErrorKind| why_not_opened(&kind.into());
        assert!(of(ErrorKind::NotFound).starts_with("there is no /dev/kvm"));
        assert!(of(ErrorKind::PermissionDenied).contains("group kvm"));
        assert!(of(ErrorKind::OutOfMemory).contains("cannot be opened"));
    }

    #[tokio::test]
    async fn a_guest_that_boots_proves_it() {
        use inn_vmm::conformance::{TinyEnd, tiny_initramfs};
        let Some(kernel) = std::env::var_os("INN_TEST_KERNEL") else {
            println!("SKIPPED probe: INN_TEST_KERNEL names no kernel");
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let initramfs = dir.path().join("initramfs");
        std::fs::write(&initramfs, tiny_initramfs("inn-guest: probe ok\n", TinyEnd::Reset))
            .unwrap();
        let work = dir.path().join("work");
        std::fs::create_dir(&work).unwrap();
        let runtime = QemuRuntime::discover().unwrap();
        // The same path as KVM's, on what works everywhere.
        let patience = Duration::from_secs(180);
        let verdict =
            runtime.probe(Accel::Tcg, Path::new(&kernel), &initramfs, &work, patience).await;
        assert!(verdict.usable, "{verdict:?}");
        assert!(verdict.reason.starts_with("booted in"), "{verdict:?}");
        assert_eq!(std::fs::read_dir(&work).unwrap().count(), 0);

        std::fs::write(&initramfs, tiny_initramfs("something else\n", TinyEnd::Reset)).unwrap();
        let verdict =
            runtime.probe(Accel::Tcg, Path::new(&kernel), &initramfs, &work, patience).await;
        assert!(!verdict.usable && verdict.reason.starts_with("gave up"), "{verdict:?}");
    }

    #[tokio::test]
    async fn the_proof_is_found_across_reads_and_nothing_else_is_one() {
        use tokio::io::AsyncWriteExt;
        let (mut guest, ours) = UnixStream::pair().unwrap();
        let seen = tokio::spawn(wait_for_proof(ours));
        for part in [&b"Linux\r\ninn-guest: pro"[..], b"be ok\r\n"] {
            guest.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert!(seen.await.unwrap());

        let (mut guest, ours) = UnixStream::pair().unwrap();
        guest.write_all(b"inn-guest: probe o").await.unwrap();
        drop(guest);
        assert!(!wait_for_proof(ours).await);
    }
}
