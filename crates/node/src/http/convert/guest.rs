//! What is changed in a guest, from the API's words to the guest's.

use std::net::IpAddr;

use inn_api as api;

use crate::guest::{
    DiskGrown, DiskMount, Frozen, InterfaceName, InterfaceSetup, NetworkApplied, NetworkSetup,
    Password, Route,
};

pub(in crate::http) fn password(set: api::SetPassword) -> Result<(String, Password), String> {
    let api::SetPassword { user, password, hash } = set;
    let password = match (password, hash) {
        (Some(clear), None) => Password::Clear(clear),
        (None, Some(hash)) => Password::Hash(hash),
        _ => return Err("give one of password and hash".to_owned()),
    };
    Ok((user, password))
}

pub(in crate::http) fn network(setup: api::NetworkSetup) -> Result<NetworkSetup, String> {
    if setup.interfaces.is_empty() {
        return Err("a network needs an interface".to_owned());
    }
    let interfaces: Result<Vec<_>, String> = setup.interfaces.into_iter().map(interface).collect();
    Ok(NetworkSetup { interfaces: interfaces?, dns: setup.dns, search: setup.search })
}

fn interface(setup: api::InterfaceSetup) -> Result<InterfaceSetup, String> {
    let which = match (setup.mac, setup.name) {
        (Some(mac), None) => InterfaceName::Mac(mac_address(&mac)?),
        (None, Some(name)) => InterfaceName::Name(name),
        _ => return Err("an interface has one of mac and name".to_owned()),
    };
    let addresses: Result<Vec<_>, String> =
        setup.addresses.iter().map(|address| with_prefix(address)).collect();
    let routes: Result<Vec<_>, String> = setup.routes.into_iter().map(route).collect();
    Ok(InterfaceSetup {
        which,
        dhcp4: setup.dhcp4,
        dhcp6: setup.dhcp6,
        addresses: addresses?,
        routes: routes?,
        mtu: setup.mtu,
    })
}

fn route(route: api::RouteSetup) -> Result<Route, String> {
    let api::RouteSetup { to, via, metric } = route;
    let to = if to == "default" { None } else { Some(with_prefix(&to)?) };
    if let Some((network, _)) = to.filter(|(network, _)| network.is_ipv4() != via.is_ipv4()) {
        return Err(format!("the route to {network} is via {via}, of another family"));
    }
    Ok(Route { to, via, metric })
}

/// `10.0.2.15/24`.
fn with_prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let parse = || {
        let (address, prefix) = text.split_once('/')?;
        let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= longest).then_some((address, prefix))
    };
    parse().ok_or_else(|| format!("`{text}` is not an address with its prefix: 10.0.2.15/24"))
}

/// `02:00:00:aa:bb:cc`.
fn mac_address(text: &str) -> Result<[u8; 6], String> {
    let parse = || {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit()))?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(mac)
    };
    parse().ok_or_else(|| format!("`{text}` is not a MAC address: 02:00:00:aa:bb:cc"))
}

pub(in crate::http) fn network_applied(applied: NetworkApplied) -> api::NetworkApplied {
    let NetworkApplied { by, problems } = applied;
    api::NetworkApplied { by, problems }
}

pub(in crate::http) fn frozen(frozen: Frozen) -> api::Frozen {
    let Frozen { mounts, expired } = frozen;
    api::Frozen { mounts, expired }
}

pub(in crate::http) fn disk_grown(grown: DiskGrown) -> api::DiskGrown {
    let DiskGrown { device, before, after } = grown;
    api::DiskGrown { device, before_bytes: before, after_bytes: after }
}

pub(in crate::http) fn disk_mount(mount: api::MountDisk) -> DiskMount {
    let api::MountDisk { serial, target, read_only, kind, lasting, format } = mount;
    DiskMount { serial, target, read_only, kind, lasting, format }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_read_whole_or_refused() {
        let setup = |interface: api::InterfaceSetup| {
            network(api::NetworkSetup { interfaces: vec![interface], ..Default::default() })
        };
        let route = |to: &str, via: &str| api::RouteSetup {
            to: to.into(),
            via: via.parse().unwrap(),
            metric: Some(5),
        };
        let good = api::InterfaceSetup {
            mac: Some("02:00:00:aa:BB:cc".into()),
            addresses: vec!["10.0.2.15/24".into(), "fd00::1/64".into()],
            routes: vec![route("default", "10.0.2.2"), route("fd01::/16", "fd00::2")],
            ..Default::default()
        };
        let read = setup(good.clone()).unwrap().interfaces.remove(0);
        assert_eq!(read.which, InterfaceName::Mac([2, 0, 0, 0xaa, 0xbb, 0xcc]));
        assert_eq!(read.addresses[1], ("fd00::1".parse().unwrap(), 64));
        assert_eq!(read.routes[0].to, None);
        assert_eq!(read.routes[1].to, Some(("fd01::".parse().unwrap(), 16)));
        for bad in [
            api::InterfaceSetup::default(),
            api::InterfaceSetup { name: Some("eth0".into()), ..good.clone() },
            api::InterfaceSetup { mac: Some("02:00:00:aa:bb".into()), ..good.clone() },
            api::InterfaceSetup { mac: Some("02:00:00:aa:bb:+c".into()), ..good.clone() },
            api::InterfaceSetup { addresses: vec!["10.0.2.15".into()], ..good.clone() },
            api::InterfaceSetup { addresses: vec!["10.0.2.15/33".into()], ..good.clone() },
            api::InterfaceSetup { routes: vec![route("10.0.0.0/8", "fd00::2")], ..good },
        ] {
            assert!(setup(bad.clone()).is_err(), "{bad:?}");
        }
        assert!(network(api::NetworkSetup::default()).is_err());
    }

    #[test]
    fn a_password_is_one_of_two() {
        let set = |password: Option<&str>, hash: Option<&str>| {
            password_of(password.map(Into::into), hash.map(Into::into))
        };
        assert_eq!(set(Some("a"), None).unwrap().1, Password::Clear("a".into()));
        assert_eq!(set(None, Some("$6$")).unwrap().1, Password::Hash("$6$".into()));
        assert!(set(None, None).is_err() && set(Some("a"), Some("b")).is_err());
    }

    fn password_of(
        password: Option<String>,
        hash: Option<String>,
    ) -> Result<(String, Password), String> {
        super::password(api::SetPassword { user: "root".into(), password, hash })
    }
}
