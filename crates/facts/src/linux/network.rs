use inn_api::{NetworkCard, NetworkCardKind};

use crate::Root;

const NET: &str = "/sys/class/net";

/// include/uapi/linux/if_arp.h
const ARPHRD_LOOPBACK: u32 = 772;

pub(super) fn cards(root: &Root) -> Vec<NetworkCard> {
    root.names(NET).into_iter().filter_map(|name| card(root, name)).collect()
}

/// Documentation/ABI/testing/sysfs-class-net.
fn card(root: &Root, name: String) -> Option<NetworkCard> {
    let dir = format!("{NET}/{name}");
    // `bonding_masters` is a file among the cards.
    let mtu = root.number(format!("{dir}/mtu"))?;
    // -1, or an error, where the link is down or of software.
    let speed: Option<i64> = root.number(format!("{dir}/speed"));
    Some(NetworkCard {
        kind: kind(root, &dir),
        mac: root.text(format!("{dir}/address")).unwrap_or_default(),
        mtu,
        state: root.text(format!("{dir}/operstate")).unwrap_or_default(),
        speed_mbps: speed.and_then(|speed| u32::try_from(speed).ok()).filter(|speed| *speed > 0),
        driver: root.link(format!("{dir}/device/driver")),
        master: root.link(format!("{dir}/master")),
        virtual_functions: root
            .number(format!("{dir}/device/sriov_totalvfs"))
            .filter(|functions| *functions > 0),
        name,
    })
}

fn kind(root: &Root, dir: &str) -> NetworkCardKind {
    let has = |name: &str| root.exists(format!("{dir}/{name}"));
    let event = root.text(format!("{dir}/uevent")).unwrap_or_default();
    let is = |kind: &str| {
        event.lines().any(|line| line.strip_prefix("DEVTYPE=").is_some_and(|told| told == kind))
    };
    if root.number(format!("{dir}/type")) == Some(ARPHRD_LOOPBACK) {
        NetworkCardKind::Loopback
    } else if is("wlan") || has("phy80211") {
        NetworkCardKind::Wireless
    } else if has("bridge") {
        NetworkCardKind::Bridge
    } else if has("bonding") {
        NetworkCardKind::Bond
    } else if has("tun_flags") {
        NetworkCardKind::Tap
    } else if is("vlan") {
        NetworkCardKind::Vlan
    } else if is("wireguard") {
        NetworkCardKind::WireGuard
    } else if has("device") {
        NetworkCardKind::Physical
    } else {
        NetworkCardKind::Virtual
    }
}
