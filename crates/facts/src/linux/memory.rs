use inn_api::{HugePages, MemoryFacts};

use super::value;
use crate::Root;

const HUGE: &str = "/sys/kernel/mm/hugepages";

pub(crate) fn memory(root: &Root) -> MemoryFacts {
    let info = root.text("/proc/meminfo").unwrap_or_default();
    let modes = root.text("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let mut huge_pages: Vec<HugePages> = root
        .names(HUGE)
        .iter()
        .filter_map(|name| {
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let of = |file: &str| root.number(format!("{HUGE}/{name}/{file}")).unwrap_or(0);
            let (total, free) = (of("nr_hugepages"), of("free_hugepages"));
            Some(HugePages { page_bytes: kib.checked_mul(1024)?, total, free })
        })
        .collect();
    huge_pages.sort_unstable_by_key(|pages| pages.page_bytes);
    MemoryFacts {
        total_bytes: kib(&info, "MemTotal"),
        available_bytes: kib(&info, "MemAvailable"),
        free_bytes: kib(&info, "MemFree"),
        swap_total_bytes: kib(&info, "SwapTotal"),
        swap_free_bytes: kib(&info, "SwapFree"),
        huge_pages,
        // `always [madvise] never`.
        transparent_huge_pages: modes
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'))
            .map(|(mode, _)| mode.to_owned()),
    }
}

/// The bytes of `key:  123 kB`; 0 where it is not told.
pub(super) fn kib(text: &str, key: &str) -> u64 {
    let number = value(text, key).and_then(|value| value.split_whitespace().next());
    number.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024)
}
