//! Innkeeper against the raw thing, in the same run: `cargo xtask bench`.
//!
//! Every figure stands beside what it is compared with, taken alternately
//! under the same load, and with the conditions that it was taken under. The
//! results go to `bench/results/*.json` and, as a table, to standard output
//! for docs/benchmarks.md.
//!
//! Everything lives in one temporary directory: an agent of our own with its
//! own data, sockets and images. It is ended and removed in the end, also
//! when a measurement fails.

mod agent;
mod base;
mod beside;
mod boot;
mod burst;
mod cards;
mod conditions;
mod connections;
mod disk;
mod exec;
mod firecracker;
mod fleet;
mod guest;
mod images;
mod import;
mod instance_start;
mod list;
mod memory;
mod ports;
mod program;
mod pull;
mod raw;
mod registry;
mod report;
mod rest;
mod sample;
mod snapshots;
mod throughput;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, ValueEnum};

use crate::base::Base;
use crate::conditions::Conditions;
use crate::report::Report;

#[derive(Debug, Parser)]
#[command(about = "Measures inn against the raw thing")]
pub(crate) struct Options {
    /// Only these; all without any
    #[arg(value_enum)]
    cases: Vec<Case>,
    /// The same as a flag
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Case>,
    /// The release build of inn
    #[arg(long, default_value = "target/release/inn")]
    inn: PathBuf,
    /// A tar of a root file system with bash, coreutils and python3; made with mmdebstrap without it
    #[arg(long, value_name = "TAR")]
    base_tar: Option<PathBuf>,
    /// What tests/fixtures/make-debian has made; made with mmdebstrap without it
    #[arg(long, value_name = "DIR")]
    debian: Option<PathBuf>,
    /// MiB of the files that go into the guest and out of it
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    file_mib: usize,
    /// Few rounds and small files, to see that it works
    #[arg(long)]
    quick: bool,
    /// A directory of unpacked kernel packages
    #[arg(long, value_name = "DIR", default_value = "/var/lib/innkeeper/kernels")]
    kernels: PathBuf,
    /// Firecracker, for its case
    #[arg(long, value_name = "PROGRAM")]
    firecracker: Option<PathBuf>,
    /// What its guests boot: an uncompressed vmlinux with all built in
    #[arg(long, value_name = "VMLINUX")]
    guest_kernel: Option<PathBuf>,
    /// What that kernel needs to be told
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    guest_kernel_args: String,
    /// Rounds of each comparison
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    #[arg(long, value_enum, default_value_t = Accel::Tcg)]
    accel: Accel,
    /// Where the JSON goes
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// `inn run --rm` cold against raw QEMU
    Boot,
    /// exec through the API against one inside the guest
    Exec,
    /// `inn vm list` with 100 simulated VMs
    List,
    /// 1,000 simulated VMs: their start, their cost, the agent's restart
    Fleet,
    /// 100 VMs at rest: what the agent takes of a CPU, and what of it is telemetry
    Rest,
    /// What each of 20 VMs takes of memory beside its VMM
    Beside,
    /// The disk by `inn node benchmark` and by fio, in turns; writes some 100 GiB
    Disk,
    /// Eight VMs at once against eight raw QEMUs at once
    Burst,
    /// Resident memory of an agent without VMs
    Memory,
    /// An image to a bootable disk, against skopeo, umoci and mkfs.ext4
    Import,
    /// Images of a registry on loopback to bootable disks, against skopeo with
    /// umoci and against buildah
    Pull,
    /// The guest agent in a Debian, against qemu-ga, ssh and the bare channel
    Guest,
    /// Port maps against iptables, and what a VM's card takes of its start, in
    /// network namespaces
    Ports,
    /// New connections through a port map, and through one rule of iptables
    Connections,
    /// What a guest sends its host, through our tap and through one by hand
    Throughput,
    /// VMs that begin from saved ones, against raw QEMU by the best recipe
    Snapshots,
    /// VMs that begin from templates and from clones that wait, against the same
    /// by hand
    Templates,
    /// Under Firecracker: what a start takes until `InstanceStart`, and a snapshot
    /// against Firecracker by itself; only when asked for: needs --firecracker,
    /// --guest-kernel and a /dev/kvm
    Firecracker,
    /// That recipe alone, only when asked for
    RawSnapshots,
    /// Raw QEMU alone, only when asked for: what can a boot cost at best?
    Raw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    Tcg,
    Kvm,
}

impl Accel {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

impl Options {
    /// Of what takes seconds each.
    pub(crate) fn file_rounds(&self) -> usize {
        self.rounds.div_ceil(3)
    }
}

/// What every case is given.
pub(crate) struct Bench {
    pub(crate) options: Options,
    /// Removed with everything in it when this is dropped.
    pub(crate) work: tempfile::TempDir,
    base: Option<Base>,
    pub(crate) report: Report,
}

impl Bench {
    pub(crate) fn base(&self) -> &Base {
        self.base.as_ref().expect("a case that boots or imports it is to be measured")
    }
}

fn main() -> anyhow::Result<()> {
    let mut options = Options::parse();
    options.inn = options.inn.canonicalize().with_context(|| {
        format!("{} is not there: run this by `cargo xtask bench`", options.inn.display())
    })?;
    if options.quick {
        options.rounds = options.rounds.min(2);
        options.file_mib = options.file_mib.min(16);
    }
    let mut cases = [options.cases.clone(), options.only.clone()].concat();
    if cases.is_empty() {
        cases = vec![
            Case::Boot,
            Case::Burst,
            Case::Exec,
            Case::List,
            Case::Fleet,
            Case::Rest,
            Case::Beside,
            Case::Disk,
            Case::Memory,
            Case::Import,
            Case::Pull,
            Case::Guest,
            Case::Ports,
            Case::Connections,
            Case::Throughput,
            Case::Snapshots,
            Case::Templates,
        ];
    }
    let work = tempfile::Builder::new().prefix("inn-bench-").tempdir()?;
    let base = if cases
        .iter()
        .all(|case| matches!(case, Case::Guest | Case::Ports | Case::Connections | Case::Disk))
    {
        None
    } else {
        Some(Base::prepare(options.base_tar.as_deref(), work.path())?)
    };
    let report = Report::new(Conditions::gather(&options)?);
    let mut bench = Bench { options, work, base, report };
    for case in cases {
        eprintln!("measuring {case:?}");
        match case {
            Case::Boot => boot::measure(&mut bench),
            Case::Exec => exec::measure(&mut bench),
            Case::List => list::measure(&mut bench),
            Case::Fleet => fleet::measure(&mut bench),
            Case::Rest => rest::measure(&mut bench),
            Case::Beside => beside::measure(&mut bench),
            Case::Disk => disk::measure(&mut bench),
            Case::Burst => burst::measure(&mut bench),
            Case::Memory => memory::measure(&mut bench),
            Case::Import => import::measure(&mut bench),
            Case::Pull => pull::measure(&mut bench),
            Case::Guest => guest::measure(&mut bench),
            Case::Ports => ports::measure(&mut bench),
            Case::Connections => connections::measure(&mut bench),
            Case::Throughput => throughput::measure(&mut bench),
            Case::Snapshots => snapshots::measure(&mut bench),
            Case::Templates => snapshots::measure_templates(&mut bench),
            Case::Firecracker => firecracker::measure(&mut bench),
            Case::RawSnapshots => snapshots::measure_raw(&mut bench),
            Case::Raw => boot::measure_raw(&mut bench),
        }
        .with_context(|| format!("measuring {case:?}"))?;
    }
    let path = bench.report.write(&bench.options.results)?;
    print!("{}", bench.report.table());
    eprintln!("written to {}", path.display());
    Ok(())
}
