use std::net::IpAddr;

use inn_guest_proto::wire;

use super::{Bytes, MAX_BYTES, clip, problems};
use crate::{
    DiskGrown, DiskMount, Frozen, InterfaceName, InterfaceSetup, MAX_MOUNTS, NetworkApplied,
    NetworkSetup, Password, Route,
};

/// Keys of one user that are taken. A frame bounds their length together.
const MAX_KEYS: usize = 1024;

pub(crate) fn password(user: &str, password: Password) -> wire::SetPassword {
    let (password, hash) = match password {
        Password::Clear(text) => (text, String::new()),
        Password::Hash(hash) => (String::new(), hash),
    };
    wire::SetPassword { user: user.to_owned(), password, hash }
}

pub(crate) fn network_setup(setup: NetworkSetup) -> wire::NetworkSetup {
    wire::NetworkSetup {
        interfaces: setup.interfaces.iter().map(interface_setup).collect(),
        dns: setup.dns.into_iter().map(ip).collect(),
        search: setup.search,
    }
}

fn interface_setup(setup: &InterfaceSetup) -> wire::InterfaceSetup {
    let (mac, name) = match &setup.which {
        InterfaceName::Mac(mac) => (Bytes::copy_from_slice(mac), String::new()),
        InterfaceName::Name(name) => (Bytes::new(), name.clone()),
    };
    wire::InterfaceSetup {
        mac,
        name,
        dhcp4: setup.dhcp4,
        dhcp6: setup.dhcp6,
        addresses: setup.addresses.iter().copied().map(address).collect(),
        routes: setup.routes.iter().map(route).collect(),
        mtu: setup.mtu.unwrap_or(0),
    }
}

fn route(route: &Route) -> wire::Route {
    wire::Route { to: route.to.map(address), via: ip(route.via), metric: route.metric.unwrap_or(0) }
}

fn address((address, prefix): (IpAddr, u8)) -> wire::Address {
    wire::Address { ip: ip(address), prefix: prefix.into() }
}

/// In network order.
fn ip(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
        IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
    }
}

pub(crate) fn network_applied(done: &wire::NetworkApplied) -> NetworkApplied {
    NetworkApplied { by: clip(&done.by), problems: problems(&done.problems) }
}

pub(crate) fn frozen(done: &wire::Frozen) -> Frozen {
    let mounts = done.mounts.iter().take(MAX_MOUNTS).map(clip).collect();
    Frozen { mounts, expired: done.expired }
}

/// Without what a terminal would act on; a key has no control characters.
pub(crate) fn ssh_keys(told: wire::SshKeys) -> Vec<String> {
    let mut keys = told.keys;
    keys.truncate(MAX_KEYS);
    keys.retain(|key| !key.chars().any(|c| c.is_control() && c != '\t'));
    keys
}

pub(crate) fn disk_grown(done: &wire::DiskGrown) -> DiskGrown {
    DiskGrown {
        device: clip(&done.device),
        before: done.before.min(MAX_BYTES),
        after: done.after.min(MAX_BYTES),
    }
}

pub(crate) fn disk_mount(mount: DiskMount) -> wire::MountDisk {
    let DiskMount { serial, target, read_only, kind, lasting, format } = mount;
    wire::MountDisk {
        mount: Some(wire::Mount { serial, target, read_only }),
        kind: kind.unwrap_or_default(),
        lasting,
        format,
    }
}
