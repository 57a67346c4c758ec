//! Facts of the machine at hand beside what its own programs say of it.

#![allow(clippy::unwrap_used, reason = "a test, with its helpers")]

use std::collections::BTreeMap;
use std::time::Duration;

use inn_api::{HostFacts, NetworkCardKind};
use inn_facts::{Root, collect};
use inn_host::process::{ask, find_program};
use serde_json::Value;

/// Far beyond what any of these programs takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a program prints, or `None`, loudly, where it is not installed.
async fn said(name: &str, args: &[&str]) -> Option<String> {
    let Some(program) = find_program(name) else {
        println!("SKIPPED {name}: it is not installed");
        return None;
    };
    let answer = ask(&program, args, b"", PATIENCE).await.unwrap();
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(answer.status.success(), "{name}: {text}");
    Some(text)
}

async fn json(name: &str, args: &[&str]) -> Option<Value> {
    Some(serde_json::from_str(&said(name, args).await?).unwrap())
}

fn facts() -> HostFacts {
    collect(&Root::host())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[tokio::test]
async fn cpus_are_those_of_lscpu() {
    let Some(told) = json("lscpu", &["-J"]).await else { return };
    let mut fields = BTreeMap::new();
    let mut rows: Vec<&Value> = told["lscpu"].as_array().unwrap().iter().collect();
    // Newer ones have fields below fields.
    while let Some(row) = rows.pop() {
        fields.insert(text(&row["field"]).trim_end_matches(':').to_owned(), text(&row["data"]));
        rows.extend(row["children"].as_array().into_iter().flatten());
    }
    let cpu = facts().cpu;
    let number = |field: &str| fields.get(field).and_then(|n| n.parse::<u32>().ok());
    assert_eq!(Some(&cpu.architecture), fields.get("Architecture"));
    assert_eq!(number("CPU(s)"), Some(cpu.threads + cpu.offline));
    if let Some(model) = fields.get("Model name") {
        assert_eq!(&cpu.model, model);
    }
    if let (Some(sockets), Some(cores)) = (number("Socket(s)"), number("Core(s) per socket")) {
        assert_eq!((cpu.sockets, cpu.cores), (sockets, sockets * cores));
    }
    if let Some(flags) = fields.get("Flags") {
        let mut flags: Vec<&str> = flags.split_whitespace().collect();
        flags.sort_unstable();
        flags.dedup();
        assert_eq!(cpu.flags, flags);
    }
    if let Some(nodes) = number("NUMA node(s)") {
        assert_eq!(facts().numa.len(), usize::try_from(nodes).unwrap());
    }
}

#[tokio::test]
async fn disks_are_those_of_lsblk() {
    let columns = "NAME,SIZE,ROTA,RM,RO,TYPE,LOG-SEC,PHY-SEC";
    let Some(told) = json("lsblk", &["-J", "-b", "-d", "-o", columns]).await else { return };
    let told: BTreeMap<String, &Value> = told["blockdevices"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|disk| disk["size"] != 0)
        .map(|disk| (text(&disk["name"]), disk))
        .collect();
    let ours = facts().block_devices;
    for disk in &ours {
        // A loop device may be another test's by now.
        if disk.name.starts_with("loop") {
            continue;
        }
        let told = told.get(&disk.name).unwrap_or_else(|| panic!("{disk:?}"));
        assert_eq!(told["size"], disk.size_bytes, "{disk:?}");
        assert_eq!(told["rota"], disk.rotational, "{disk:?}");
        assert_eq!(told["rm"], disk.removable, "{disk:?}");
        assert_eq!(told["ro"], disk.read_only, "{disk:?}");
        assert_eq!(told["log-sec"], disk.logical_block_bytes, "{disk:?}");
        assert_eq!(told["phy-sec"], disk.physical_block_bytes, "{disk:?}");
    }
    for name in told.keys().filter(|name| !name.starts_with("loop")) {
        assert!(ours.iter().any(|disk| disk.name == *name), "{name} is missing");
    }
}

#[tokio::test]
async fn memory_is_that_of_free() {
    let Some(told) = said("free", &["-b"]).await else { return };
    let line = |name: &str| -> Vec<u64> {
        let line = told.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().flat_map(str::parse).collect()
    };
    let memory = facts().memory;
    assert_eq!(line("Mem:")[0], memory.total_bytes);
    assert_eq!(line("Swap:")[0], memory.swap_total_bytes);
    // It changes between the two readings; not by half of it, and never beyond all.
    let available = *line("Mem:").last().unwrap();
    assert!(memory.available_bytes <= memory.total_bytes);
    assert!(memory.available_bytes.abs_diff(available) < memory.total_bytes / 2);
}

#[tokio::test]
async fn cards_are_those_of_ip() {
    let Some(told) = json("ip", &["-j", "link"]).await else { return };
    let ours = facts().network_cards;
    for told in told.as_array().unwrap() {
        let name = text(&told["ifname"]);
        let Some(card) = ours.iter().find(|card| card.name == name) else {
            // Somebody's for a moment, as other tests' are.
            println!("{name} is gone, or came just now");
            continue;
        };
        assert_eq!(told["mtu"], card.mtu, "{card:?}");
        assert_eq!(text(&told["operstate"]).to_lowercase(), card.state, "{card:?}");
        assert_eq!(text(&told["address"]), card.mac, "{card:?}");
        let is_loopback = text(&told["link_type"]) == "loopback";
        assert_eq!(card.kind == NetworkCardKind::Loopback, is_loopback, "{card:?}");
    }
}

#[tokio::test]
async fn gpus_are_those_of_nvidia_smi() {
    let query = "--query-gpu=pci.bus_id,uuid,name,driver_version,memory.total";
    let form = "--format=csv,noheader,nounits";
    let Some(told) = said("nvidia-smi", &[query, form]).await else { return };
    let ours = facts();
    for line in told.lines() {
        let fields: Vec<&str> = line.split(", ").collect();
        let address = fields[0].to_lowercase();
        let gpu = ours.gpus.iter().find(|gpu| address.ends_with(&gpu.pci_address));
        let gpu = gpu.unwrap_or_else(|| panic!("{address}: {ours:?}"));
        assert_eq!(gpu.uuid.as_deref(), Some(fields[1]));
        assert_eq!(gpu.name, fields[2]);
        assert_eq!(gpu.driver_version.as_deref(), Some(fields[3]));
        let mib: u64 = fields[4].parse().unwrap();
        assert_eq!(gpu.memory_bytes.map(|bytes| bytes >> 20), Some(mib));
    }
}

#[test]
fn what_is_mounted_at_the_root_is_seen() {
    let facts = facts();
    assert_eq!(facts.kernel.name, "Linux");
    assert!(!facts.kernel.release.is_empty());
    // A container's root may be of a kind that has no size.
    if let Some(root) = facts.file_systems.iter().find(|fs| fs.mounted_at == "/") {
        assert!(root.total_bytes >= root.free_bytes, "{root:?}");
    }
}
