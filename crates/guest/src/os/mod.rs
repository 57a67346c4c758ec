//! What differs by operating system, and the only place that asks which one
//! it is: everything else of this crate knows processes, files and streams,
//! but no mounts, modules or ioctls. A build for another system is another
//! folder beside `linux` with the same names in it.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::*;
