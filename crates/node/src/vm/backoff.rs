//! How often a VM went down of late, over restarts of the agent: a crash loop
//! is none the less one for them, and a wait is neither cut short nor endless.

use std::time::Duration;

use inn_domain::{Backoff, Moment};
use inn_store::{BackoffRecord, ObservedRecord};
use jiff::Timestamp;

/// By the host's clock, as it is stored; `None` for a VM that is well.
pub(super) fn backoff_record(backoff: Backoff, now: Moment) -> Option<BackoffRecord> {
    let left = backoff.not_before().0.saturating_sub(now.0);
    let not_before =
        (!left.is_zero()).then(|| Timestamp::now().checked_add(left).unwrap_or(Timestamp::MAX));
    (backoff.failures() > 0).then_some(BackoffRecord { failures: backoff.failures(), not_before })
}

/// On the clock of this life. A machine that has been there for so long that
/// its VM was well has its next end count as the first.
pub(super) fn restored_backoff(record: &ObservedRecord, now: Moment) -> Backoff {
    let Some(stored) = record.backoff else { return Backoff::default() };
    let since = |at: Timestamp| Duration::try_from(Timestamp::now().duration_since(at));
    let age = record.started_at.and_then(|at| since(at).ok());
    let well = record.machine.is_some() && age.is_some_and(|age| age >= Backoff::WELL);
    if well {
        return Backoff::default();
    }
    let left = stored.not_before.map(|at| Duration::try_from(at.duration_since(Timestamp::now())));
    let left = left.and_then(Result::ok).unwrap_or_default();
    Backoff::restored(stored.failures, now, left)
}

#[cfg(test)]
mod tests {
    use inn_store::MachineRecord;

    use super::*;

    #[test]
    fn a_wait_goes_on_and_a_vm_that_was_well_begins_anew() {
        let now = Moment(Duration::from_secs(7));
        let wait = Duration::from_secs(100);
        let backoff = Backoff::restored(4, now, wait);
        let mut record =
            ObservedRecord { backoff: backoff_record(backoff, now), ..ObservedRecord::default() };
        let later = Moment(Duration::from_secs(1));
        let again = restored_backoff(&record, later);
        let left = again.not_before().0 - later.0;
        assert_eq!(again.failures(), 4);
        assert!(left <= wait && left > wait - Duration::from_secs(60), "{left:?}");

        let machine = MachineRecord {
            runtime: "sim".to_owned(),
            pid: 0,
            start_ticks: 1,
            host_boot_id: String::new(),
            kvm: false,
            kernel: None,
            foreign_architecture: None,
        };
        record.machine = Some(machine);
        record.started_at = Some(Timestamp::now() - Backoff::WELL / 2);
        assert_eq!(restored_backoff(&record, later).failures(), 4);
        record.started_at = Some(Timestamp::now() - Backoff::WELL);
        assert_eq!(restored_backoff(&record, later), Backoff::default());
        assert_eq!(backoff_record(Backoff::default(), now), None);
    }
}
