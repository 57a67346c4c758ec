use inn_client::api::{Phase, Vm};
use jiff::Timestamp;

/// As the API spells it.
pub(crate) const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "pending",
        Phase::Preparing => "preparing",
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Stopping => "stopping",
        Phase::Stopped => "stopped",
        Phase::Failed => "failed",
        Phase::Deleting => "deleting",
    }
}

/// Whether the VM has, or is about to have, a machine.
pub(crate) const fn is_active(phase: Phase) -> bool {
    !matches!(phase, Phase::Stopped | Phase::Failed)
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

#[cfg(test)]
mod tests {
    use super::*;

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
