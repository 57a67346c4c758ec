//! Each decision in words.

use std::fmt;
use std::time::Duration;

use inn_units::{Bytes, format_duration};

use super::{CacheKind, CacheLimits, CacheUse, CacheVerdict};

impl fmt::Display for CacheVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(uses) => {
                f.write_str("kept: ")?;
                for (number, by) in uses.iter().enumerate() {
                    write!(f, "{}{by}", if number == 0 { "" } else { ", and " })?;
                }
                Ok(())
            }
            Self::JustUsed { ago } => write!(
                f,
                "kept: used {} ago, and what was just used may be about to be used again",
                shown(*ago)
            ),
            Self::Within { unused, used, limits } => {
                write!(f, "kept: unused for {}, and {}", shown(*unused), Room(*used, *limits))
            }
            Self::Expired { unused, limit } => write!(
                f,
                "removed: unused for {}, longer than the {} of images.max_age",
                shown(*unused),
                shown(*limit)
            ),
            Self::OverLimit { used, limit } => write!(
                f,
                "removed to come below the limit of {limit}: {used} were used, this the least \
                 recently"
            ),
            Self::ForRoom { needed } => write!(
                f,
                "removed to make room for {needed}: of what is unused, it was used the least \
                 recently"
            ),
            Self::Unreferenced => f.write_str("removed: no image refers to it"),
        }
    }
}

impl fmt::Display for CacheUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vms(1) => f.write_str("1 VM runs from it"),
            Self::Vms(n) => write!(f, "{n} VMs run from it"),
            Self::Template => f.write_str("VMs begin from it"),
            Self::Import => f.write_str("it is being brought in"),
            Self::OtherAgent => f.write_str("another agent uses this cache"),
        }
    }
}

impl fmt::Display for CacheKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::DiskImage => "disk image",
            Self::EmptyDisk => "empty disk",
            Self::Kernel => "kernel",
            Self::Initramfs => "initramfs",
            Self::Template => "template",
            Self::Partial => "partial download",
            Self::Leftover => "leftover",
        })
    }
}

/// Why that much may stay.
struct Room(Bytes, CacheLimits);

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(used, limits) = self;
        match (limits.size, limits.age) {
            (Some(size), _) => write!(f, "{used} of {size} are used"),
            (None, Some(age)) => write!(f, "it may be for {}", shown(age)),
            (None, None) if limits.room.is_some() => f.write_str("there is room enough without"),
            (None, None) => f.write_str("no limit is set"),
        }
    }
}

/// Whole ones of the largest unit that leaves two at least: `31 d`, `36 h`.
fn shown(d: Duration) -> String {
    let secs = d.as_secs();
    let units = [("d", 86_400), ("h", 3_600), ("min", 60)];
    let fits = units.iter().find(|(_, unit)| secs >= 2 * unit || secs == *unit);
    match fits {
        Some((name, unit)) => format!("{} {name}", secs / unit),
        None if secs > 0 => format!("{secs} s"),
        None => format_duration(d),
    }
}
