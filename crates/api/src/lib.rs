//! The REST types of the agent's API and its errors.
//!
//! JSON is camelCase, sizes are bytes, times RFC 3339 UTC, durations seconds.
//! These are wire types only: the node converts them to domain types at one
//! edge, so the wire can stay frozen while the inside changes. Requests refuse
//! unknown fields; responses may grow new ones.

mod benchmark;
mod commit;
mod disk_image;
mod doctor;
mod event;
pub mod exec;
mod execs;
mod facts;
mod files;
mod guest;
mod host_kernel;
mod idle;
mod image;
mod image_cache;
mod limits;
mod network;
mod node;
mod node_life;
mod node_snapshot;
mod operation;
mod policy;
mod port_map;
mod problem;
mod snapshot;
mod stats;
mod token;
mod usage;
mod vm;
mod why;

pub use benchmark::{
    Benchmark, BenchmarkCreate, BenchmarkDirection, BenchmarkLatency, BenchmarkPass,
    BenchmarkPattern,
};
pub use commit::VmCommit;
pub use disk_image::{CachedDiskImage, CachedDiskImageList, DiskImagePull};
pub use doctor::{Examination, Finding, FindingState, Fix};
pub use event::{Event, EventGap, EventList, EventVm};
pub use execs::{ExecCreate, ExecEnded, ExecInfo, ExecList, ExecSignal};
pub use facts::{
    BlockDevice, BlockKind, CgroupFacts, ClockFacts, Confidential, CpuCache, CpuFacts,
    Distribution, Family, FileSystem, Gpu, HostFacts, HugePages, IommuFacts, KernelFacts,
    KernelPart, KernelPartState, KvmFacts, MemoryFacts, NetworkCard, NetworkCardKind, NodeFacts,
    NotSeen, NumaNode, Passthrough, Tool, Tpm, Virtualisation,
};
pub use files::{
    BLOCK_SUM, FileAttributes, FileChange, FileChangeKind, FileInfo, FileKind, FileList,
    FileWritten, MakeDir, Rename, Symlink, UploadState,
};
pub use guest::{
    ClockSet, DiskGrown, Freeze, Frozen, GrowDisk, InterfaceSetup, MountDisk, NetworkApplied,
    NetworkSetup, RouteSetup, SetHostname, SetPassword, SetSshKeys, SshKeys, Unmount,
};
pub use host_kernel::{HostKernel, HostKernelList, KernelDefault, KernelOrigin};
pub use idle::{IdleAction, IdleSet, OnIdle, Rest};
pub use image::{Image, ImageConfig, ImageImport, ImageList, ImagePull};
pub use image_cache::{CacheAction, CacheDecision, CacheKind, ImageGc, ImageGcResult};
pub use limits::{CgroupLayout, LimitNotApplied, VmLimits, VmLimitsChange, VmLimitsState};
pub use network::{
    AddressSource, HostNetwork, HostNetworkList, Network, NetworkCreate, NetworkKind, NetworkPlan,
    VmAddress, VmAddressChange,
};
pub use node::{Health, NodeDrain, NodeInfo, NodeResources, Reaped, ReapedKind, ReapedList, Share};
pub use node_life::{GuestDown, GuestsDown, GuestsStarted, Reload, Upgrade, UpgradeBegun};
pub use node_snapshot::{HostNow, NodeSnapshot, Pool, Template, TemplateState, VmUse};
pub use operation::{LayerProgress, LayerState, Operation, OperationState, Progress};
pub use policy::{
    DeniedCount, Policy, PolicyAction, PolicyDirection, PolicyMode, PolicyProtocol, PolicyRule,
    PortRange, RateLimits, VmPolicyState,
};
pub use port_map::{PortMap, PortMapCreate, PortMapList, PortMapsCreate, PortsRestored, Transport};
pub use problem::{Code, Problem};
pub use snapshot::{
    ForkRequest, ResumeReceipt, ResumeStep, SignedReceipt, Snapshot, SnapshotCreate,
    SnapshotImport, SnapshotList, SnapshotMaker, SnapshotPart,
};
pub use stats::{GuestSample, Interface, MountUse, Pressure, PressureSet, Stats};
pub use token::{Scope, Token, TokenCreate, TokenCreated, TokenList};
pub use usage::{
    ByteSeconds, UsageCheck, UsageFinding, UsageHead, UsageReport, UsageRow, VcpuSeconds,
};
pub use vm::{
    Accelerator, Channel, CloudInit, CloudInitState, CloudInitStatus, Desired, DiskFormat,
    DiskImage, DiskImageRef, EndKind, Failure, GuestLink, GuestState, ImageRef, Kernel, LastEnd,
    LeaseEvent, Paused, Phase, RestartPolicy, Runtime, StableAddresses, Ttl, TtlAction, TtlSet, Vm,
    VmCreate, VmList, VncAccess, Workload, WorkloadState,
};
pub use why::{
    Boot, BootPart, BootPhase, NetworkStanding, NextAction, PhaseResult, Verdict, VmWhy, WhyStep,
};

/// The API's base path; every route but `/health` and `/metrics` is below it.
pub const BASE: &str = "/api";
