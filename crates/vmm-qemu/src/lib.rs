//! QEMU as a runtime: the microvm machine for kernels, or q35 where QEMU has no
//! microvm; q35 with SeaBIOS for disks that boot by firmware.
//!
//! ```text
//!   discover ──▶ QemuRuntime ──launch──▶ qemu-system-x86_64   (a session of its own)
//!                     │                      ▲ qmp.sock      one QMP client: its machine's task
//!                     └──adopt───────────────┤ agent.sock    the guest's virtio-serial port
//!                                            ├ console.sock  its serial console, live
//!                                            └ vsock.sock    instead of agent.sock: its vsock's
//!                                                            bridge, a process (bridge.rs)
//! ```
//!
//! Invariants: nothing is typed at QEMU but through `args.rs` (pure) and the
//! QMP client; the sockets are bound by us and handed over as descriptors, so
//! nobody polls for them; the guest's RAM is a memfd, never a file on a disk;
//! a guest's end leaves a paused QEMU that is asked how it ended before it is
//! ended itself, so the reason survives the agent.

mod args;
mod bridge;
mod cmdline;
mod discover;
mod end;
mod fingerprint;
mod isolate;
mod jail;
mod launch;
mod logs;
mod machine;
mod memory;
mod probe;
mod qmp;
mod reap;
mod strays;

pub use cmdline::kernel_args;
pub use discover::{MachineType, QemuRuntime};
pub use machine::QemuMachine;
pub use probe::KvmVerdict;
pub use strays::{end_stray, strays};
