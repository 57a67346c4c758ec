//! Netplan's YAML (netplan(5)). What other files say of an interface is merged
//! with ours, which comes last.

use super::setup::{Card, Setup};

pub(super) const PATH: &str = "/etc/netplan/90-innkeeper.yaml";

pub(super) fn render(setup: &Setup) -> String {
    let mut text = String::from("# Written by Innkeeper.\nnetwork:\n  version: 2\n  ethernets:\n");
    for card in &setup.cards {
        render_card(card, setup, &mut text);
    }
    text
}

fn render_card(card: &Card, setup: &Setup, text: &mut String) {
    let mut line = |depth: usize, content: String| {
        text.push_str(&"  ".repeat(depth));
        text.push_str(&content);
        text.push('\n');
    };
    // Quoted, for a name or an address is never to be taken for a number.
    line(2, format!("\"{}\":", card.name));
    line(3, format!("dhcp4: {}", card.dhcp4));
    line(3, format!("dhcp6: {}", card.dhcp6));
    if let Some(mtu) = card.mtu {
        line(3, format!("mtu: {mtu}"));
    }
    if !card.addresses.is_empty() {
        line(3, "addresses:".into());
        for (ip, prefix) in &card.addresses {
            line(4, format!("- \"{ip}/{prefix}\""));
        }
    }
    if !card.routes.is_empty() {
        line(3, "routes:".into());
        for way in &card.routes {
            line(4, format!("- to: \"{}\"", way.destination()));
            line(5, format!("via: \"{}\"", way.via));
            if let Some(metric) = way.metric {
                line(5, format!("metric: {metric}"));
            }
        }
    }
    if setup.dns.is_empty() && setup.search.is_empty() {
        return;
    }
    line(3, "nameservers:".into());
    if !setup.dns.is_empty() {
        line(4, "addresses:".into());
        setup.dns.iter().for_each(|ip| line(5, format!("- \"{ip}\"")));
    }
    if !setup.search.is_empty() {
        line(4, "search:".into());
        setup.search.iter().for_each(|name| line(5, format!("- \"{name}\"")));
    }
}
