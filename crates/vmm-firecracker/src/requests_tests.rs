use std::collections::BTreeMap;
use std::fs;

use inn_units::{Bytes, Vcpus, VmId};
use inn_vmm::{
    Accel, Boot, ChannelKind, Console, Disk, DiskSource, Isolation, KernelBoot, Lifetime,
};

use super::*;

/// The fields that the OpenAPI file of 1.7 has of each of these definitions and
/// that are sent. A later one only adds to them.
const DOCUMENTED: [(&str, &str, &[&str]); 9] = [
    ("/machine-config", "MachineConfiguration", &["vcpu_count", "mem_size_mib"]),
    ("/boot-source", "BootSource", &["kernel_image_path", "initrd_path", "boot_args"]),
    (
        "/drives/",
        "Drive",
        &["drive_id", "path_on_host", "is_root_device", "is_read_only", "cache_type"],
    ),
    ("/network-interfaces/", "NetworkInterface", &["iface_id", "guest_mac", "host_dev_name"]),
    ("/vsock", "Vsock", &["guest_cid", "uds_path"]),
    ("/balloon", "Balloon", &["amount_mib", "deflate_on_oom", "stats_polling_interval_s"]),
    ("/entropy", "EntropyDevice", &[]),
    ("/actions", "InstanceActionInfo", &["action_type"]),
    ("/vm", "Vm", &["state"]),
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
        console: Console { log: "/console.log".into(), log_limit: Bytes::mib(1) },
        channel: ChannelKind::Vsock,
        run_dir: "/run".into(),
        lifetime: Lifetime::Detached,
        isolation: Isolation::default(),
    }
}

fn all() -> Vec<Request> {
    let places = Places {
        kernel: "/kernel".into(),
        initramfs: Some("/initramfs".into()),
        disks: vec!["/disk0".into(), "/disk1".into()],
        vsock: "/run/vsock.sock".into(),
    };
    let mut all = machine(&config(), "x=y", &places);
    all.extend([card([2, 0, 0, 0, 0, 0xab], "inn-t1"), start(), pause(), resume()]);
    all
}

fn fields(request: &Request) -> Vec<String> {
    let body: BTreeMap<String, serde_json::Value> = serde_json::from_str(&request.body).unwrap();
    body.into_keys().collect()
}

fn definition(request: &Request) -> (&'static str, &'static [&'static str]) {
    let found = DOCUMENTED.iter().find(|(path, ..)| match path.ends_with('/') {
        true => request.path.starts_with(path),
        false => request.path == *path,
    });
    let (_, definition, fields) = found.unwrap_or_else(|| panic!("{} is unknown", request.path));
    (definition, fields)
}

#[test]
fn every_field_is_a_documented_one() {
    for request in all() {
        let (definition, documented) = definition(&request);
        for field in fields(&request) {
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
            .replace("/drives/disk0", "/drives/{drive_id}")
            .replace("/drives/disk1", "/drives/{drive_id}")
            .replace("/network-interfaces/eth0", "/network-interfaces/{iface_id}");
        let of_path = paths.split_once(&format!("\n  {path}:\n")).expect(&path).1;
        let of_path = of_path.split("\n  /").next().unwrap();
        let method = format!("    {}:\n", request.method.to_lowercase());
        assert!(format!("{of_path}\n").contains(&method), "{method} {path}");
        let (definition, _) = definition(&request);
        let of = definitions.split_once(&format!("  {definition}:\n")).expect(definition).1;
        // Until the next one, which begins as far left.
        let of: Vec<&str> =
            of.lines().take_while(|line| line.is_empty() || line.starts_with("   ")).collect();
        for field in fields(&request) {
            assert!(of.contains(&format!("      {field}:").as_str()), "{definition}.{field}");
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
            "/drives/disk0",
            "/drives/disk1",
            "/vsock",
            "/balloon",
            "/entropy",
            "/network-interfaces/eth0",
            "/actions",
            "/vm",
            "/vm"
        ]
    );
    assert_eq!(all[0].body, r#"{"vcpu_count":1,"mem_size_mib":192}"#);
    assert!(all[1].body.contains("inn.disks=inn-root,inn-rw x=y"), "{}", all[1].body);
    assert!(all[3].body.contains("\"Writeback\""), "{}", all[3].body);
    assert!(all[7].body.contains("02:00:00:00:00:ab"), "{}", all[7].body);
    assert_eq!((all[8].method, all[9].method), ("PUT", "PATCH"));
}
