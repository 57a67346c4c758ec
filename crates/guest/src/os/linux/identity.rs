//! Makes a booted guest one particular VM: name, addresses, clock, mounts.
//!
//! Images are odd: /etc may be read-only, a file, or missing, and resolv.conf
//! a link to a daemon's file that nobody runs. Such things are reported and
//! passed over. What the VM cannot do without (its network, a disk that it was
//! promised) fails the request.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use inn_guest_proto::wire::{self, Configure, Configured, FailureKind};
use rustix::mount::{MountFlags, mount};

use super::network::{self, Network};
use super::{clock, dhcp, disks, etc, hostname, mounts, renumber};
use crate::agent::{Agent, Role};
use crate::refusal::{OrRefuse, Refusal};

pub(crate) fn configure(agent: &Rc<Agent>, setup: Configure) -> Result<Configured, Refusal> {
    if agent.role != Role::Init {
        let what = "be configured: it is not PID 1 of its machine";
        return Err(Refusal::new(FailureKind::Unsupported, what));
    }
    let mut problems = Vec::new();
    set_clock(setup.clock_unix_ns, &mut problems);
    agent.stable_addresses.set(setup.stable_addresses);
    hostname::check(&setup.hostname)?;
    rustix::system::sethostname(setup.hostname.as_bytes())
        .or_refuse(|| format!("take the hostname {}", setup.hostname))?;
    network::bring_up_loopback().or_refuse(|| "bring up the loopback interface".into())?;
    let mut dns = Vec::new();
    if setup.network.as_ref().is_some_and(|wanted| wanted.dhcp4) {
        let lease = dhcp::start(&setup.hostname);
        match lease.or_refuse(|| "ask its network for an address".into())? {
            Some(lease) => dns = lease.dns,
            None => problems
                .push("no DHCP server of its network has answered yet; it is asked on".to_owned()),
        }
    } else if let Some(wanted) = &setup.network {
        let network = Network {
            address: parse_address(&wanted.address)?,
            prefix: wanted.prefix,
            gateway: match wanted.gateway.len() {
                0 => None,
                _ => Some(parse_address(&wanted.gateway)?),
            },
        };
        dns = wanted.dns.iter().map(|a| parse_address(a)).collect::<Result<_, _>>()?;
        let card = network::configure(&network)
            .or_refuse(|| format!("take the address {}/{}", network.address, network.prefix))?;
        match take_ipv6(wanted) {
            Ok(()) => renumber::has_taken(card, wanted),
            Err(refusal) => problems.push(format!("the guest cannot {refusal}")),
        }
    }
    write_etc(Path::new("/etc"), &setup, &dns, &mut problems);
    for wanted in &setup.mounts {
        mount_disk(&wanted.serial, &wanted.target, wanted.read_only)?;
    }
    mounts::mount_lasting(&mut problems);
    agent.configured.set(true);
    Ok(Configured { problems })
}

fn set_clock(unix_ns: u64, problems: &mut Vec<String>) {
    if unix_ns == 0 {
        return;
    }
    if let Err(error) = clock::set_kernel(Duration::from_nanos(unix_ns)) {
        problems.push(format!("the clock was not set: {error}"));
    }
}

/// Beside IPv4, which a VM cannot do without: a kernel may have no IPv6.
fn take_ipv6(wanted: &wire::Network) -> Result<(), Refusal> {
    if wanted.address6.is_empty() {
        return Ok(());
    }
    let address = parse_address6(&wanted.address6)?;
    let gateway = match wanted.gateway6.len() {
        0 => None,
        _ => Some(parse_address6(&wanted.gateway6)?),
    };
    let prefix = u8::try_from(wanted.prefix6)
        .map_err(|_| Refusal::invalid("take an IPv6 prefix that is none"))?;
    network::configure6(address, prefix, gateway)
        .or_refuse(|| format!("take the address {address}/{prefix}"))
}

pub(super) fn parse_address6(bytes: &[u8]) -> Result<Ipv6Addr, Refusal> {
    let octets: [u8; 16] =
        bytes.try_into().map_err(|_| Refusal::invalid("take an IPv6 address that is none"))?;
    Ok(octets.into())
}

pub(super) fn parse_address(bytes: &[u8]) -> Result<Ipv4Addr, Refusal> {
    let octets: [u8; 4] =
        bytes.try_into().map_err(|_| Refusal::invalid("take an IPv4 address that is none"))?;
    Ok(octets.into())
}

fn write_etc(dir: &Path, setup: &Configure, dns: &[Ipv4Addr], problems: &mut Vec<String>) {
    let mut write = |written: Result<(), Refusal>| {
        if let Err(refusal) = written {
            problems.push(format!("the guest cannot {refusal}"));
        }
    };
    if let Err(error) = fs::create_dir_all(dir) {
        return write(Err(Refusal::io(format!("make {}", dir.display()), &error)));
    }
    write(write_name(etc::replace, dir, &setup.hostname));
    write(write_resolvers(etc::replace, dir, dns));
    write(write_machine_id(etc::replace, dir, &setup.machine_id));
}

/// Takes a path, its content and its mode.
type Write = fn(&Path, &str, u32) -> io::Result<()>;

pub(super) fn write_name(by: Write, dir: &Path, name: &str) -> Result<(), Refusal> {
    let hostname = write_file(by, dir, "hostname", &format!("{name}\n"), 0o644);
    // Somebody may have added to it since the VM's first start.
    let hosts = fs::read_to_string(dir.join("hosts")).unwrap_or_default();
    hostname.and(write_file(by, dir, "hosts", &hostname::hosts(&hosts, name), 0o644))
}

/// None leave what is there.
pub(super) fn write_resolvers(by: Write, dir: &Path, dns: &[Ipv4Addr]) -> Result<(), Refusal> {
    if dns.is_empty() {
        return Ok(());
    }
    let lines: String = dns.iter().map(|address| format!("nameserver {address}\n")).collect();
    write_file(by, dir, "resolv.conf", &lines, 0o644)
}

/// An empty one leaves what is there.
pub(super) fn write_machine_id(by: Write, dir: &Path, id: &str) -> Result<(), Refusal> {
    if id.is_empty() {
        return Ok(());
    }
    write_file(by, dir, "machine-id", &format!("{id}\n"), 0o444)
}

fn write_file(by: Write, dir: &Path, name: &str, content: &str, mode: u32) -> Result<(), Refusal> {
    let path = dir.join(name);
    by(&path, content, mode).or_refuse(|| format!("write {}", path.display()))
}

pub(super) fn mount_disk(serial: &str, target: &str, read_only: bool) -> Result<(), Refusal> {
    if !target.starts_with('/') {
        return Err(Refusal::invalid(format!("mount a disk on {target}, which is no path")));
    }
    fs::create_dir_all(target).or_refuse(|| format!("make {target}"))?;
    let device = disks::find(serial).or_refuse(|| format!("find the disk {serial}"))?;
    let mut flags = MountFlags::NOATIME;
    if read_only {
        flags |= MountFlags::RDONLY;
    }
    mount(&device, target, "ext4", flags, None)
        .or_refuse(|| format!("mount the disk {serial} on {target}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn setup() -> Configure {
        Configure {
            hostname: "web-1".into(),
            machine_id: "0123456789abcdef0123456789abcdef".into(),
            ..Configure::default()
        }
    }

    #[test]
    fn files_are_written_and_links_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        fs::create_dir(&etc).unwrap();
        std::os::unix::fs::symlink("/run/nowhere/stub", etc.join("resolv.conf")).unwrap();
        let mut problems = Vec::new();
        write_etc(&etc, &setup(), &[Ipv4Addr::new(10, 0, 2, 3)], &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        let read = |name| fs::read_to_string(etc.join(name)).unwrap();
        assert_eq!(read("hostname"), "web-1\n");
        assert_eq!(read("resolv.conf"), "nameserver 10.0.2.3\n");
        assert!(fs::symlink_metadata(etc.join("resolv.conf")).unwrap().is_file());
        assert_eq!(read("machine-id"), "0123456789abcdef0123456789abcdef\n");
        let mode = fs::metadata(etc.join("machine-id")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444);
        assert!(read("hosts").contains("127.0.1.1\tweb-1"));
    }

    #[test]
    fn hosts_that_know_the_name_are_left_alone() {
        let etc = tempfile::tempdir().unwrap();
        let own = "127.0.0.1 localhost web-1 # mine\n10.1.1.1 db\n";
        fs::write(etc.path().join("hosts"), own).unwrap();
        write_etc(etc.path(), &setup(), &[], &mut Vec::new());
        assert_eq!(fs::read_to_string(etc.path().join("hosts")).unwrap(), own);
        assert!(!etc.path().join("resolv.conf").exists());
    }

    #[test]
    fn odd_images_are_reported_not_fatal() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        fs::create_dir_all(etc.join("hostname/inside")).unwrap();
        let mut problems = Vec::new();
        write_etc(&etc, &setup(), &[], &mut problems);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(!etc.join("hostname.inn").exists());

        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let mut problems = Vec::new();
        write_etc(&file, &setup(), &[], &mut problems);
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
}
