//! QEMU as an expert would start it by hand: the same machine, kernel, disks
//! and arguments as inn's, an agent that does the least, and no more.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use inn_host::tsc::TscSample;
use inn_image::initramfs::ModuleSet;
use inn_image::kernel::{GuestBinary, KernelStore};
use inn_vmm_qemu::{MachineType, kernel_args};

use crate::agent::pause;
use crate::program::{build_guest_program, command, timed};
use crate::{Accel, Bench};

mod clones;

pub(crate) use clones::{Pooled, RawParent, RawTemplate};

pub(crate) struct RawQemu {
    dir: PathBuf,
    vmlinux: PathBuf,
    initramfs: PathBuf,
    root_disk: PathBuf,
    /// A fresh copy for each boot, made before the clock starts.
    rw_template: PathBuf,
    accel: Accel,
    arguments: String,
}

pub(crate) struct RawTimes {
    /// From the process's start to the guest's first word.
    pub(crate) ready: Duration,
    /// To the end of everything, `/bin/true` having run.
    pub(crate) all: Duration,
}

pub(crate) const MEMORY_MIB: u64 = 128;
pub(crate) const DISK_MIB: u64 = 1024;

const DEADLINE: Duration = Duration::from_secs(60);

impl RawQemu {
    pub(crate) fn prepare(bench: &Bench) -> anyhow::Result<Self> {
        let dir = bench.work.path().join("raw");
        fs::create_dir_all(&dir)?;
        let guest = fs::read(build_guest_program("raw_guest", &dir)?)?;
        let store = KernelStore::open(&dir.join("kernel"))?;
        let kernel = store.resolve(None, &bench.options.kernels)?;
        let initramfs = store.initramfs(&kernel, GuestBinary::new(&guest), ModuleSet::Mmio)?;

        let files = dir.join("files");
        bench.base().unpack_to(&files)?;
        let root_disk = dir.join("root.ext4");
        make_ext4(&root_disk, Some(&files), DISK_MIB)?;
        fs::remove_dir_all(&files)?;
        let rw_template = dir.join("rw.ext4");
        make_ext4(&rw_template, None, DISK_MIB)?;

        let arguments = arguments(bench.options.accel);
        Ok(Self {
            dir,
            vmlinux: kernel.vmlinux,
            initramfs,
            root_disk,
            rw_template,
            accel: bench.options.accel,
            arguments,
        })
    }

    pub(crate) fn boot_and_exec(&self) -> anyhow::Result<RawTimes> {
        self.boot_and_exec_as("one")
    }

    /// With files of its own, named so, for several at once.
    pub(crate) fn boot_and_exec_as(&self, name: &str) -> anyhow::Result<RawTimes> {
        let rw_disk = self.dir.join(format!("rw-{name}.ext4"));
        timed(command("cp").arg("--sparse=always").args([&self.rw_template, &rw_disk]))?;
        let socket = self.dir.join(format!("{name}.sock"));
        let console = self.dir.join(format!("{name}.log"));
        let mut qemu = self.command(&rw_disk, &socket, &console, "user")?;
        qemu.args(["-append", &self.arguments]);

        let begin = Instant::now();
        let mut process = Ended(qemu.spawn().context("qemu-system-x86_64 did not start")?);
        let result = converse(&socket, begin);
        let status = process.0.try_wait()?;
        drop(process);
        let all = begin.elapsed();
        fs::remove_file(&rw_disk)?;
        // QEMU removes its socket only when it ends in order.
        let _ = fs::remove_file(&socket);
        let ready = result.with_context(|| {
            let console = fs::read_to_string(&console).unwrap_or_default();
            format!("raw QEMU ({status:?}), console: {console}")
        })?;
        Ok(RawTimes { ready, all })
    }

    /// All but what its kernel is told; `behind` its card is this.
    fn command(
        &self,
        rw_disk: &Path,
        socket: &Path,
        console: &Path,
        behind: &str,
    ) -> anyhow::Result<Command> {
        let console = File::create(console)?;
        let mut qemu = microvm(self.accel, &self.vmlinux, &self.initramfs);
        let channel = format!("socket,id=agent,path={},server=on,wait=off", socket.display());
        qemu.args(["-chardev", &channel, "-device", "virtio-serial-device"]);
        qemu.args(["-device", "virtserialport,chardev=agent,name=innkeeper.agent.0"]);
        for (serial, path, read_only) in
            [("inn-root", &*self.root_disk, "on"), ("inn-rw", rw_disk, "off")]
        {
            let path = path.display();
            qemu.args([
                "-drive",
                &format!("if=none,id={serial},format=raw,readonly={read_only},file={path}"),
            ]);
            qemu.args(["-device", &format!("virtio-blk-device,drive={serial},serial={serial}")]);
        }
        qemu.args(["-netdev", &format!("{behind},id=net")]);
        qemu.args(["-device", "virtio-net-device,netdev=net"]);
        qemu.stdout(console);
        Ok(qemu)
    }
}

/// Without devices, its console on standard output.
pub(crate) fn microvm(accel: Accel, vmlinux: &Path, initramfs: &Path) -> Command {
    let mut qemu = command("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    // `rtc=on`: without a clock the kernel waits a second for one.
    qemu.args(["-M", "microvm,rtc=on"]);
    qemu.args(match accel {
        Accel::Tcg => ["-accel", "tcg", "-cpu", "max,-erms"],
        Accel::Kvm => ["-accel", "kvm", "-cpu", "host"],
    });
    qemu.args(["-smp", "1", "-m", &format!("{MEMORY_MIB}M")]);
    qemu.arg("-kernel").arg(vmlinux).arg("-initrd").arg(initramfs);
    qemu.args(["-serial", "stdio"]);
    qemu
}

/// What a microVM's kernel is told.
pub(crate) fn arguments(accel: Accel) -> String {
    let accel = match accel {
        Accel::Tcg => inn_vmm::Accel::Tcg,
        Accel::Kvm => inn_vmm::Accel::Kvm,
    };
    let sample = TscSample::take();
    pause(sample.ready_in());
    kernel_args(MachineType::Microvm, accel, sample.khz())
}

fn converse(socket: &Path, begin: Instant) -> anyhow::Result<Duration> {
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(e) if begin.elapsed() > DEADLINE => return Err(e).context("QEMU made no socket"),
            Err(_) => pause(Duration::from_micros(200)),
        }
    };
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut lines = BufReader::new(stream.try_clone()?);
    expect_line(&mut lines, "ready")?;
    let ready = begin.elapsed();
    stream.write_all(b"/bin/true\n")?;
    expect_line(&mut lines, "exit 0")?;
    Ok(ready)
}

fn expect_line(lines: &mut impl BufRead, expected: &str) -> anyhow::Result<()> {
    let mut line = String::new();
    lines.read_line(&mut line)?;
    if line.trim_end() != expected {
        bail!("the guest said {line:?} and not {expected:?}");
    }
    Ok(())
}

fn make_ext4(path: &Path, files: Option<&Path>, mib: u64) -> anyhow::Result<()> {
    File::create(path)?.set_len(mib << 20)?;
    let mut mkfs = command("mkfs.ext4");
    mkfs.args(["-q", "-F"]);
    if let Some(files) = files {
        mkfs.arg("-d").arg(files);
    }
    timed(mkfs.arg(path)).map(drop)
}

/// Killed and waited for when dropped.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Fails only if it has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
