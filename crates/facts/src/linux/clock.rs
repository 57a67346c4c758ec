use inn_api::ClockFacts;

use crate::Root;

const CURRENT: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
pub(super) const AVAILABLE: &str =
    "/sys/devices/system/clocksource/clocksource0/available_clocksource";

pub(super) fn clock(root: &Root) -> ClockFacts {
    let sources = root.text(AVAILABLE).unwrap_or_default();
    ClockFacts {
        source: root.word(CURRENT),
        sources: sources.split_whitespace().map(str::to_owned).collect(),
        synchronised: if root.is_live() { inn_host::clock::is_synchronised() } else { None },
    }
}
