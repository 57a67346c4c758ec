use std::path::PathBuf;

use inn_domain::RuntimeChoice;
use inn_units::{Architecture, InterfaceName};
use ipnet::IpNet;

use super::values::{absolute, choice, parsed};

/// Some of the runtimes, each once.
pub(super) fn runtimes(text: &str) -> Result<Vec<RuntimeChoice>, String> {
    let known = [
        ("qemu", RuntimeChoice::Qemu),
        ("firecracker", RuntimeChoice::Firecracker),
        ("krun", RuntimeChoice::Krun),
        ("libvirt", RuntimeChoice::Libvirt),
    ];
    let mut order = Vec::new();
    for name in text.split(',').map(str::trim) {
        let runtime = choice(name, &known)?;
        if order.contains(&runtime) {
            return Err(format!("names {name} twice"));
        }
        order.push(runtime);
    }
    Ok(order)
}

/// libvirtd's by a socket of this host: machines are given descriptors.
pub(super) fn libvirt_uri(text: &str) -> Result<String, String> {
    let local = ["qemu:///", "qemu+unix:///"].iter().any(|scheme| text.starts_with(scheme));
    match local {
        true => Ok(text.to_owned()),
        false => Err("must begin with qemu:/// or qemu+unix:///: a libvirtd of this host".into()),
    }
}

/// `OURS=THEIRS`, or none.
pub(super) fn prefix(text: &str) -> Result<Option<(PathBuf, PathBuf)>, String> {
    if text == "none" {
        return Ok(None);
    }
    let (ours, theirs) = text.split_once('=').ok_or("must be DIRECTORY=DIRECTORY or none")?;
    Ok(Some((absolute(ours)?, absolute(theirs)?)))
}

pub(super) fn architecture(text: &str) -> Result<Architecture, String> {
    let known = [Architecture::X86_64, Architecture::Aarch64].map(|one| (one.as_str(), one));
    choice(text, &known)
}

/// Interfaces, or none.
pub(super) fn bridges(text: &str) -> Result<Vec<InterfaceName>, String> {
    match text {
        "none" => Ok(Vec::new()),
        names => names.split(',').map(|name| parsed(name.trim())).collect(),
    }
}

/// As CIDR, or any.
pub(super) fn subnet(text: &str) -> Result<Option<IpNet>, String> {
    if text == "any" {
        return Ok(None);
    }
    let subnet: IpNet =
        text.parse().map_err(|_| "must be a subnet such as 192.168.1.0/24, or any")?;
    Ok(Some(subnet.trunc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_each_runtime_once() {
        use RuntimeChoice::{Krun, Qemu};
        assert_eq!(runtimes("krun,qemu"), Ok(vec![Krun, Qemu]));
        assert_eq!(runtimes(" qemu "), Ok(vec![Qemu]));
        for (bad, why) in [("qemu, qemu", "twice"), ("", "must be"), ("xen", "krun or libvirt")] {
            assert!(runtimes(bad).unwrap_err().contains(why), "{bad}");
        }
    }

    #[test]
    fn a_libvirtd_is_one_of_this_host() {
        for uri in ["qemu:///system", "qemu:///session", "qemu+unix:///system?socket=/s"] {
            assert_eq!(libvirt_uri(uri).as_deref(), Ok(uri));
        }
        for uri in ["qemu+ssh://host/system", "lxc:///", ""] {
            assert!(libvirt_uri(uri).unwrap_err().contains("this host"), "{uri}");
        }
        assert_eq!(prefix("none"), Ok(None));
        assert_eq!(prefix("/a=/b"), Ok(Some(("/a".into(), "/b".into()))));
        assert!(prefix("/a").is_err() && prefix("a=/b").is_err());
        assert_eq!(architecture("aarch64"), Ok(Architecture::Aarch64));
        assert_eq!(architecture("arm64").unwrap_err(), "must be x86_64 or aarch64");
        assert_eq!(bridges("none"), Ok(Vec::new()));
        assert_eq!(bridges("br0, br1").unwrap().len(), 2);
        assert!(bridges("br0,").is_err() && bridges("a b").is_err());
        assert_eq!(subnet("any"), Ok(None));
        assert_eq!(subnet("192.0.2.7/24").unwrap().unwrap().to_string(), "192.0.2.0/24");
        assert!(subnet("192.0.2.7").is_err());
    }
}
