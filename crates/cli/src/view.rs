use std::time::Duration;

use inn_client::api::{EndKind, GuestLink, IdleAction, LastEnd, OnIdle, Phase, Ttl, TtlAction, Vm};
use inn_units::{Bytes, format_duration};
use jiff::Timestamp;

/// As the API spells it.
pub(crate) const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "pending",
        Phase::Preparing => "preparing",
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Stopping => "stopping",
        Phase::Stopped => "stopped",
        Phase::Failed => "failed",
        Phase::Deleting => "deleting",
    }
}

/// The same for people, who want to know whether somebody wanted it so.
pub(crate) fn status(vm: &Vm) -> String {
    let phase = phase_name(vm.phase);
    match (&vm.rest, vm.phase) {
        _ if is_asleep(vm) => "asleep".to_owned(),
        (Some(_), Phase::Paused | Phase::Stopped) => format!("{phase} (idle)"),
        _ => phase.to_owned(),
    }
}

/// Whether its memory is saved and whoever needs it wakes it.
pub(crate) fn is_asleep(vm: &Vm) -> bool {
    let saved = vm.rest.as_ref().is_some_and(|rest| rest.action == IdleAction::Snapshot);
    saved && vm.phase == Phase::Stopped
}

/// Whether the VM has, or is about to have, a machine.
pub(crate) const fn is_active(phase: Phase) -> bool {
    !matches!(phase, Phase::Stopped | Phase::Failed)
}

/// `deleted in 29m 59s`.
pub(crate) fn time_left(ttl: &Ttl) -> String {
    let what = match ttl.action {
        TtlAction::Stop => "stopped",
        TtlAction::Delete => "deleted",
    };
    format!("{what} in {}", format_duration(Duration::from_secs(ttl.seconds_left)))
}

/// `paused after 10 min unused`.
pub(crate) fn idle_words(on_idle: &OnIdle) -> String {
    let what = match on_idle.action {
        IdleAction::Pause => "paused",
        IdleAction::Snapshot => "saved and stopped",
        IdleAction::Stop => "stopped",
    };
    let after = format_duration(Duration::from_secs(on_idle.after_seconds));
    format!("{what} after {after} unused")
}

/// What it was made from.
pub(crate) fn source(vm: &Vm) -> String {
    match (&vm.image, &vm.disk_image) {
        (Some(image), _) => image.name.clone(),
        (None, Some(disk)) => disk.url.rsplit('/').next().unwrap_or(&disk.url).to_owned(),
        (None, None) => "-".to_owned(),
    }
}

/// How long ago, in its largest unit: `12s`, `5m`, `3h`, `9d`.
pub(crate) fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// As the API spells it.
pub(crate) const fn link(link: GuestLink) -> &'static str {
    match link {
        GuestLink::Absent => "absent",
        GuestLink::Connecting => "connecting",
        GuestLink::Ready => "ready",
        GuestLink::Degraded => "degraded",
        GuestLink::Lost => "lost",
    }
}

/// How a machine came to its end: `graceful, 1.20 s`, `forced, 10.01 s: why`.
pub(crate) fn end(end: &LastEnd) -> String {
    let mut text = match end.how {
        EndKind::Graceful => "graceful",
        EndKind::Forced => "forced",
        EndKind::ByItself => "by itself",
    }
    .to_owned();
    if let Some(ms) = end.took_ms {
        text.push_str(", ");
        text.push_str(&format_duration(Duration::from_millis(ms)));
    }
    if let Some(reason) = &end.reason {
        text.push_str(": ");
        text.push_str(reason);
    }
    text
}

/// A size for people: `1.5GiB`.
pub(crate) fn bytes(n: u64) -> String {
    Bytes(n).to_string()
}

/// A part of a whole, `37 %`; `-` of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    match share(part, whole) {
        Some(share) => format!("{share:.0} %"),
        None => "-".to_owned(),
    }
}

/// A part of a whole in per cent, at most 100: the numbers are a guest's.
pub(crate) fn share(part: u64, whole: u64) -> Option<f64> {
    // Precise to 2^-53, which no screen shows.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let (part, whole) = (part as f64, whole as f64);
    (whole > 0.0).then(|| (part * 100.0 / whole).min(100.0))
}

/// How long something has been up: `42s`, `3m 20s`, `2h 5m`, `9d 4h`.
pub(crate) fn uptime(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_say_how_and_why() {
        let mut last = LastEnd {
            how: EndKind::Graceful,
            reason: None,
            took_ms: Some(1_200),
            at: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(end(&last), "graceful, 1.20 s");
        last.how = EndKind::Forced;
        last.reason = Some("the guest did not end within 10 s".into());
        assert_eq!(end(&last), "forced, 1.20 s: the guest did not end within 10 s");
    }

    #[test]
    fn shares_and_uptimes_are_for_people() {
        assert_eq!((percent(1, 3).as_str(), percent(1, 0).as_str()), ("33 %", "-"));
        assert_eq!(percent(7, 3), "100 %");
        for (seconds, shown) in
            [(0, "0s"), (59, "59s"), (200, "3m 20s"), (7_500, "2h 5m"), (790_000, "9d 3h")]
        {
            assert_eq!(uptime(seconds), shown);
        }
    }

    #[test]
    fn ages_are_rounded_down_and_never_negative() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let now = at(1_000_000);
        for (then, shown) in [
            (1_000_000, "0s"),
            (999_941, "59s"),
            (999_940, "1m"),
            (996_401, "59m"),
            (996_400, "1h"),
            (913_600, "1d"),
            (1_000_500, "0s"),
        ] {
            assert_eq!(age(at(then), now), shown);
        }
    }

    #[test]
    fn phases_are_spelt_as_in_the_api() {
        for phase in [
            Phase::Pending,
            Phase::Preparing,
            Phase::Starting,
            Phase::Running,
            Phase::Stopping,
            Phase::Stopped,
            Phase::Failed,
            Phase::Deleting,
        ] {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase_name(phase));
        }
    }
}
