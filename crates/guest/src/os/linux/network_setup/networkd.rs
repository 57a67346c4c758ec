//! systemd-networkd's files (systemd.network(5)).

use std::path::PathBuf;

use super::setup::{Card, Setup};

/// Of all files that match an interface the first alone counts, by name: ours
/// must come before `80-…` and whatever an image brought.
pub(super) fn path(interface: &str) -> PathBuf {
    format!("/etc/systemd/network/05-innkeeper-{interface}.network").into()
}

pub(super) fn render(card: &Card, setup: &Setup) -> String {
    let mut text = format!("# Written by Innkeeper.\n[Match]\nName={}\n", card.name);
    if let Some(mtu) = card.mtu {
        text.push_str(&format!("\n[Link]\nMTUBytes={mtu}\n"));
    }
    let dhcp = match (card.dhcp4, card.dhcp6) {
        (false, false) => "no",
        (true, false) => "ipv4",
        (false, true) => "ipv6",
        (true, true) => "yes",
    };
    text.push_str(&format!("\n[Network]\nDHCP={dhcp}\n"));
    for (ip, prefix) in &card.addresses {
        text.push_str(&format!("Address={ip}/{prefix}\n"));
    }
    for ip in &setup.dns {
        text.push_str(&format!("DNS={ip}\n"));
    }
    if !setup.search.is_empty() {
        text.push_str(&format!("Domains={}\n", setup.search.join(" ")));
    }
    for way in &card.routes {
        text.push_str(&format!("\n[Route]\nDestination={}\n", way.destination()));
        text.push_str(&format!("Gateway={}\n", way.via));
        if let Some(metric) = way.metric {
            text.push_str(&format!("Metric={metric}\n"));
        }
    }
    text
}
