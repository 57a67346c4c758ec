use std::fs;

use inn_units::{Bytes, Vcpus, VmId};
use inn_vmm::{
    Accel, Boot, ChannelKind, Console, Disk, DiskSource, Isolation, KernelBoot, Lifetime,
};

use super::*;

/// The fields that the OpenAPI file of 1.7 has of each of these definitions and
/// that are sent. A later one only adds to them; `network_overrides` is of 1.12.
const DOCUMENTED: [(&str, &str, &[&str]); 13] = [
    ("/machine-config", "MachineConfiguration", &["vcpu_count", "mem_size_mib"]),
    ("/boot-source", "BootSource", &["kernel_image_path", "initrd_path", "boot_args"]),
    (
        "/drives/",
        "Drive",
        &["drive_id", "path_on_host", "is_root_device", "is_read_only", "cache_type"],
    ),
    (
        "/network-interfaces/",
        "NetworkInterface",
        &["iface_id", "guest_mac", "host_dev_name", "rx_rate_limiter", "tx_rate_limiter"],
    ),
    ("/vsock", "Vsock", &["guest_cid", "uds_path"]),
    ("/balloon", "Balloon", &["amount_mib", "deflate_on_oom", "stats_polling_interval_s"]),
    ("/entropy", "EntropyDevice", &[]),
    ("/actions", "InstanceActionInfo", &["action_type"]),
    ("/vm", "Vm", &["state"]),
    (
        "/snapshot/create",
        "SnapshotCreateParams",
        &["snapshot_type", "snapshot_path", "mem_file_path"],
    ),
    (
        "/snapshot/load",
        "SnapshotLoadParams",
        &["snapshot_path", "mem_backend", "resume_vm", "network_overrides"],
    ),
    ("PATCH /drives/", "PartialDrive", &["drive_id", "path_on_host"]),
    (
        "PATCH /network-interfaces/",
        "PartialNetworkInterface",
        &["iface_id", "rx_rate_limiter", "tx_rate_limiter"],
    ),
];

/// Of what is within these fields.
const WITHIN: [(&str, &str, &[&str]); 6] = [
    ("rx_rate_limiter", "RateLimiter", &["bandwidth", "ops"]),
    ("tx_rate_limiter", "RateLimiter", &["bandwidth", "ops"]),
    ("bandwidth", "TokenBucket", &["size", "refill_time"]),
    ("ops", "TokenBucket", &["size", "refill_time"]),
    ("mem_backend", "MemoryBackend", &["backend_type", "backend_path"]),
    ("network_overrides", "NetworkOverride", &["iface_id", "host_dev_name"]),
];

fn config() -> MachineConfig {
    let disk = |serial: &str, read_only| Disk {
        source: DiskSource::Raw("/images/disk".into()),
        read_only,
        serial: serial.to_owned(),
    };
    MachineConfig {
        id: VmId::from_bytes([1; 5]),
        vcpus: Vcpus::ONE,
        memory: Bytes::mib(192),
        accel: Accel::Kvm,
        boot: Boot::Kernel(KernelBoot {
            kernel: "/vmlinux".into(),
            initramfs: None,
            cmdline: String::new(),
        }),
        from: None,
        disks: vec![disk("inn-root", true), disk("inn-rw", false)],
        nic: None,
        screen: false,
        generation_id: false,
        reboots_within: true,
        console: Console { log: "/console.log".into(), log_limit: Bytes::mib(1) },
        channel: ChannelKind::Vsock,
        run_dir: "/run".into(),
        lifetime: Lifetime::Detached,
        isolation: Isolation::default(),
    }
}

fn all() -> Vec<Request> {
    let places = BootPlaces { kernel: "/kernel".into(), initramfs: Some("/initramfs".into()) };
    let mut all = machine(&config(), "x=y", &places);
    all.extend([card([2, 0, 0, 0, 0, 0xab], "inn-t1", &limits()), start(), pause(), resume()]);
    let saved = SavedPaths { state: "/state".into(), memory: "/memory".into() };
    all.extend([save(true, &saved), save(false, &saved)]);
    all.extend([load(&saved, Some("inn-t2")), load(&saved, None), resize("inn-rw")]);
    all.extend([limit_card(&limits()), limit_card(&CardLimits::default())]);
    all
}

/// Bytes from the guest, and packets both ways.
fn limits() -> CardLimits {
    let bucket = |per_second, burst| Some(Bucket { per_second, burst });
    CardLimits {
        from_guest: Flow { bytes: bucket(1_000_000, 187_500), packets: bucket(100, 12) },
        to_guest: Flow { bytes: None, packets: bucket(112, 28) },
    }
}

/// What is sent of which definition, those within others too.
fn fields(request: &Request) -> Vec<(&'static str, String)> {
    let (of, _) = definition(request);
    let mut all = Vec::new();
    fields_of(of, &serde_json::from_str(&request.body).unwrap(), &mut all);
    all
}

fn fields_of(of: &'static str, value: &serde_json::Value, all: &mut Vec<(&'static str, String)>) {
    let one = value.as_array().map_or(Some(value), |several| several.first());
    for (field, value) in one.and_then(|value| value.as_object()).into_iter().flatten() {
        if let Some((_, of, _)) = WITHIN.iter().find(|(name, ..)| name == field) {
            fields_of(of, value, all);
        }
        all.push((of, field.clone()));
    }
}

fn definition(request: &Request) -> (&'static str, &'static [&'static str]) {
    let of = |known: &str| {
        let (patched, path) = match known.strip_prefix("PATCH ") {
            Some(path) => (true, path),
            None => (request.path == "/vm", known),
        };
        let same = match path.ends_with('/') {
            true => request.path.starts_with(path),
            false => request.path == path,
        };
        same && patched == (request.method == "PATCH")
    };
    let found = DOCUMENTED.iter().find(|(path, ..)| of(path));
    let (_, definition, fields) = found.unwrap_or_else(|| panic!("{} is unknown", request.path));
    (definition, fields)
}

#[test]
fn every_field_is_a_documented_one() {
    for request in all() {
        for (definition, field) in fields(&request) {
            let known = DOCUMENTED.iter().chain(&WITHIN).find(|(_, name, _)| *name == definition);
            let (.., documented) = known.unwrap();
            assert!(documented.contains(&field.as_str()), "{definition} has no {field}");
        }
    }
}

/// The same against the file itself, which `INN_FIRECRACKER_OPENAPI` names.
#[test]
fn every_field_is_in_firecrackers_own_file() {
    let Some(file) = std::env::var_os("INN_FIRECRACKER_OPENAPI") else {
        return println!(
            "SKIPPED Firecracker's OpenAPI file: INN_FIRECRACKER_OPENAPI does not name it"
        );
    };
    let text = fs::read_to_string(file).unwrap();
    let (paths, definitions) = text.split_once("\ndefinitions:\n").unwrap();
    for request in all() {
        // Its own names for what differs from one request to the next.
        let path = request
            .path
            .replace("/drives/disk_inn_mroot", "/drives/{drive_id}")
            .replace("/drives/disk_inn_mrw", "/drives/{drive_id}")
            .replace("/network-interfaces/eth0", "/network-interfaces/{iface_id}");
        let of_path = paths.split_once(&format!("\n  {path}:\n")).expect(&path).1;
        let of_path = of_path.split("\n  /").next().unwrap();
        let method = format!("    {}:\n", request.method.to_lowercase());
        assert!(format!("{of_path}\n").contains(&method), "{method} {path}");
        for (definition, field) in fields(&request) {
            let text = format!("\n{definitions}");
            let of = text.split_once(&format!("\n  {definition}:\n")).expect(definition).1;
            // Until the next one, which begins as far left.
            let mut of = of.lines().take_while(|line| line.is_empty() || line.starts_with("   "));
            assert!(of.any(|line| line == format!("      {field}:")), "{definition}.{field}");
        }
    }
}

#[test]
fn a_machine_is_asked_for_in_order() {
    let all = all();
    let paths: Vec<&str> = all.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "/machine-config",
            "/boot-source",
            "/drives/disk_inn_mroot",
            "/drives/disk_inn_mrw",
            "/vsock",
            "/balloon",
            "/entropy",
            "/network-interfaces/eth0",
            "/actions",
            "/vm",
            "/vm",
            "/snapshot/create",
            "/snapshot/create",
            "/snapshot/load",
            "/snapshot/load",
            "/drives/disk_inn_mrw",
            "/network-interfaces/eth0",
            "/network-interfaces/eth0",
        ]
    );
    assert_eq!(all[0].body, r#"{"vcpu_count":1,"mem_size_mib":192}"#);
    assert!(all[1].body.contains("inn.disks=inn-root,inn-rw x=y"), "{}", all[1].body);
    assert!(all[3].body.contains("\"Writeback\""), "{}", all[3].body);
    assert!(all[7].body.contains("02:00:00:00:00:ab"), "{}", all[7].body);
    assert_eq!((all[8].method, all[9].method), ("PUT", "PATCH"));
    assert!(all[11].body.contains("\"Diff\"") && all[12].body.contains("\"Full\""));
    assert_eq!(
        all[13].body,
        r#"{"snapshot_path":"/state","mem_backend":{"backend_type":"File","backend_path":"/memory"},"resume_vm":false,"network_overrides":[{"iface_id":"eth0","host_dev_name":"inn-t2"}]}"#
    );
    assert!(!all[14].body.contains("overrides"), "{}", all[14].body);
    assert_eq!(all[15].body, r#"{"drive_id":"disk_inn_mrw","path_on_host":"disk_inn_mrw"}"#);
}

#[test]
fn a_card_is_held_to_its_limits_at_their_very_rates() {
    let none = card([2, 0, 0, 0, 0, 1], "inn-t1", &CardLimits::default());
    assert!(!none.body.contains("limiter"), "{}", none.body);
    // 12 packets take 120 ms at 100 in a second, 28 take 250 at 112.
    let from_guest = r#""tx_rate_limiter":{"bandwidth":{"size":188000,"refill_time":188},"ops":{"size":12,"refill_time":120}}"#;
    let to_guest = r#""rx_rate_limiter":{"ops":{"size":28,"refill_time":250}}"#;
    let put = card([2, 0, 0, 0, 0, 1], "inn-t1", &limits()).body;
    assert!(put.contains(from_guest) && put.contains(to_guest), "{put}");
    // One that is not wanted is taken away: what is not named would stay.
    let patch = limit_card(&limits()).body;
    let whole = r#""rx_rate_limiter":{"bandwidth":{"size":0,"refill_time":0},"ops":{"size":28,"refill_time":250}}"#;
    assert!(patch.contains(from_guest) && patch.contains(whole), "{patch}");
    assert_eq!(limit_card(&CardLimits::default()).body.matches(r#""size":0"#).count(), 4);
    for bucket in [
        Bucket { per_second: 1, burst: 98_304 },
        Bucket { per_second: u64::MAX, burst: u64::MAX / 4 },
        Bucket { per_second: 0, burst: 0 },
    ] {
        let TokenBucket { size, refill_time } = TokenBucket::of(bucket);
        assert!(size > 0 && refill_time > 0, "{bucket:?}: {size} in {refill_time} ms");
    }
}
