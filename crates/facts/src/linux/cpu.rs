use std::collections::{BTreeMap, BTreeSet};

use inn_api::{CpuCache, CpuFacts};

use super::value;
use crate::Root;
use crate::root::list;

const CPUS: &str = "/sys/devices/system/cpu";

pub(super) fn cpu(root: &Root) -> CpuFacts {
    let info = root.text("/proc/cpuinfo").unwrap_or_default();
    let listed = |name: &str| root.text(format!("{CPUS}/{name}")).map(|text| list(&text));
    let online = listed("online").unwrap_or_else(|| processors(&info));
    let present = listed("present").unwrap_or_default();
    let (vendor, model) = names(&info);
    let mut flags: Vec<String> = value(&info, "flags")
        .or_else(|| value(&info, "Features"))
        .map(|flags| flags.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default();
    flags.sort_unstable();
    flags.dedup();
    let (sockets, cores) = topology(root, &online);
    CpuFacts {
        architecture: architecture(root, &info),
        vendor,
        model,
        sockets,
        cores,
        threads: count(online.len()),
        offline: count(present.iter().filter(|cpu| !online.contains(cpu)).count()),
        max_mhz: root
            .number::<u32>(format!("{CPUS}/cpu0/cpufreq/cpuinfo_max_freq"))
            .map(|khz| khz / 1000),
        caches: caches(root, &online),
        flags,
    }
}

fn processors(info: &str) -> Vec<u32> {
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| key.trim() == "processor")
        .filter_map(|(_, number)| number.trim().parse().ok())
        .collect()
}

fn architecture(root: &Root, info: &str) -> String {
    // Since Linux 6.1.
    let told = root.word("/proc/sys/kernel/arch");
    told.unwrap_or_else(|| {
        let of_tree = match value(info, "CPU implementer") {
            Some(_) => "aarch64",
            None if value(info, "vendor_id").is_some() => "x86_64",
            None => "unknown",
        };
        if root.is_live() { std::env::consts::ARCH } else { of_tree }.to_owned()
    })
}

/// Vendor and model. ARM has numbers for both (MIDR_EL1, Arm ARM D19.2.123);
/// these are of cores that servers and boards have.
fn names(info: &str) -> (String, String) {
    if let Some(vendor) = value(info, "vendor_id") {
        return (vendor.to_owned(), value(info, "model name").unwrap_or_default().to_owned());
    }
    let Some(implementer) = value(info, "CPU implementer") else { return Default::default() };
    let part = value(info, "CPU part").unwrap_or_default();
    let vendor = match implementer {
        "0x41" => "ARM",
        "0x43" => "Cavium",
        "0x48" => "HiSilicon",
        "0x4e" => "NVIDIA",
        "0x51" => "Qualcomm",
        "0x61" => "Apple",
        "0xc0" => "Ampere",
        other => other,
    };
    let model = match (implementer, part) {
        ("0x41", "0xd03") => "Cortex-A53",
        ("0x41", "0xd05") => "Cortex-A55",
        ("0x41", "0xd07") => "Cortex-A57",
        ("0x41", "0xd08") => "Cortex-A72",
        ("0x41", "0xd09") => "Cortex-A73",
        ("0x41", "0xd0a") => "Cortex-A75",
        ("0x41", "0xd0b") => "Cortex-A76",
        ("0x41", "0xd0c") => "Neoverse-N1",
        ("0x41", "0xd40") => "Neoverse-V1",
        ("0x41", "0xd41") => "Cortex-A78",
        ("0x41", "0xd49") => "Neoverse-N2",
        ("0x41", "0xd4f") => "Neoverse-V2",
        ("0xc0", "0xac3") => "Ampere-1",
        ("0xc0", "0xac4") => "Ampere-1a",
        (_, part) => part,
    };
    (vendor.to_owned(), model.to_owned())
}

/// Sockets and cores: CPUs of one core have its number in the same package and
/// die (Documentation/ABI/stable/sysfs-devices-system-cpu).
fn topology(root: &Root, online: &[u32]) -> (u32, u32) {
    let (mut sockets, mut cores) = (BTreeSet::new(), BTreeSet::new());
    for cpu in online {
        let at = |name: &str| root.number::<i64>(format!("{CPUS}/cpu{cpu}/topology/{name}"));
        let package = at("physical_package_id").unwrap_or(-1);
        sockets.insert(package);
        // Without a number each is a core of its own.
        let core = at("core_id").filter(|core| *core >= 0).unwrap_or(-1 - i64::from(*cpu));
        cores.insert((package, at("die_id").unwrap_or(0), at("cluster_id").unwrap_or(-1), core));
    }
    (count(sockets.len()), count(cores.len()))
}

fn caches(root: &Root, online: &[u32]) -> Vec<CpuCache> {
    let mut each: BTreeMap<(u8, String, u64), BTreeSet<String>> = BTreeMap::new();
    for cpu in online {
        let dir = format!("{CPUS}/cpu{cpu}/cache");
        for index in root.names(&dir).iter().filter(|name| name.starts_with("index")) {
            let of = |name: &str| root.word(format!("{dir}/{index}/{name}"));
            let (Some(level), Some(kind), Some(size), Some(shared)) =
                (of("level"), of("type"), of("size"), of("shared_cpu_list"))
            else {
                continue;
            };
            let (Ok(level), Some(size)) = (level.parse(), kib(&size)) else { continue };
            each.entry((level, kind.to_lowercase(), size)).or_default().insert(shared);
        }
    }
    each.into_iter()
        .map(|((level, kind, size_bytes), shared)| CpuCache {
            level,
            kind,
            size_bytes,
            count: count(shared.len()),
        })
        .collect()
}

/// `48K`.
fn kib(text: &str) -> Option<u64> {
    text.strip_suffix('K')?.parse::<u64>().ok()?.checked_mul(1024)
}

pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
