//! How a VM came up, as it is stored.

use std::time::Duration;

use inn_domain::{BootPhase, BootTimeline, PhasePart, PhaseResult, PhaseTime};

use crate::records::{BootRecord, BootRecords};
use crate::row::{StoredBoot, StoredBootPhase, StoredBoots, StoredPhase, StoredPhaseResult};

same_variants!(BootPhase <=> StoredBootPhase {
    PrepareDisk, Launch, Handshake, Configure, CloudInit, StartWorkload,
});
same_variants!(PhaseResult <=> StoredPhaseResult { Open, Done, Failed, GivenUp, Unanswered });

impl From<&BootRecords> for StoredBoots {
    fn from(boots: &BootRecords) -> Self {
        let BootRecords { last, failed } = boots;
        Self { last: last.as_ref().map(Into::into), failed: failed.as_ref().map(Into::into) }
    }
}

impl From<StoredBoots> for BootRecords {
    fn from(row: StoredBoots) -> Self {
        Self { last: row.last.map(Into::into), failed: row.failed.map(Into::into) }
    }
}

impl From<&BootRecord> for StoredBoot {
    fn from(boot: &BootRecord) -> Self {
        Self {
            at: boot.at,
            console_from: boot.console_from,
            emulated: boot.emulated,
            run: boot.timeline.run,
            phases: boot.timeline.phases.iter().map(stored_phase).collect(),
        }
    }
}

impl From<StoredBoot> for BootRecord {
    fn from(row: StoredBoot) -> Self {
        let phases = row.phases.into_iter().map(phase).collect();
        Self {
            at: row.at,
            console_from: row.console_from,
            emulated: row.emulated,
            timeline: BootTimeline { run: row.run, phases },
        }
    }
}

fn stored_phase(time: &PhaseTime) -> StoredPhase {
    StoredPhase {
        phase: time.phase.into(),
        start_us: micros(time.start),
        took_us: time.took.map(micros),
        result: time.result.into(),
        parts: time.parts.iter().map(|p| (p.name.to_string(), micros(p.took))).collect(),
    }
}

fn phase(row: StoredPhase) -> PhaseTime {
    let part = |(name, us): (String, u64)| PhasePart {
        name: name.into(),
        took: Duration::from_micros(us),
    };
    PhaseTime {
        phase: row.phase.into(),
        start: Duration::from_micros(row.start_us),
        took: row.took_us.map(Duration::from_micros),
        result: row.result.into(),
        parts: row.parts.into_iter().map(part).collect(),
    }
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}
