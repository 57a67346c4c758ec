//! ifupdown's files (interfaces(5)). Stanzas of one interface add up, wherever
//! they stand, so those that are there for ours go.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::setup::{Card, Setup, Way};
use crate::refusal::{OrRefuse, Refusal};

pub(super) const MAIN: &str = "/etc/network/interfaces";
pub(super) const PATH: &str = "/etc/network/interfaces.d/90-innkeeper";

/// What a stanza begins with (interfaces(5)).
const KEYWORDS: [&str; 7] =
    ["iface", "mapping", "auto", "source", "source-directory", "rename", "no-auto-down"];

/// The files that would say something of the interfaces, without that.
pub(super) fn without_cards(
    main: &Path,
    setup: &Setup,
) -> Result<Vec<(PathBuf, String, u32)>, Refusal> {
    let what = |path: &Path| format!("read {}", path.display());
    let read = |path: &Path| match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).or_refuse(|| what(path)),
    };
    let own = Path::new(PATH);
    let folder = main.with_extension("d");
    let mut files = Vec::new();
    let before = read(main)?;
    let mut after = without(&before, setup);
    if !sources_folder(&before) {
        after.push_str("source /etc/network/interfaces.d/*\n");
    }
    if after != before {
        files.push((main.to_owned(), after, 0o644));
    }
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path == own || !path.is_file() {
            continue;
        }
        let before = read(&path)?;
        let after = without(&before, setup);
        if after != before {
            files.push((path, after, 0o644));
        }
    }
    Ok(files)
}

fn sources_folder(text: &str) -> bool {
    text.lines().map(str::trim).any(|line| {
        let mut words = line.split_ascii_whitespace();
        let is_source = matches!(words.next(), Some("source" | "source-directory"));
        // Relative ones are relative to /etc/network.
        is_source && words.any(|word| word.contains("interfaces.d"))
    })
}

fn without(text: &str, setup: &Setup) -> String {
    let ours = |name: &str| setup.cards.iter().any(|card| card.name == name);
    let mut after = String::new();
    let mut dropping = false;
    for line in text.split_inclusive('\n') {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if first == "iface" {
            dropping = words.next().is_some_and(ours);
        } else if KEYWORDS.contains(&first) || first.starts_with("allow-") {
            dropping = false;
        }
        if first == "auto" || first.starts_with("allow-") {
            let others: Vec<&str> = words.clone().filter(|name| !ours(name)).collect();
            if others.len() < words.clone().count() {
                if !others.is_empty() {
                    after.push_str(&format!("{first} {}\n", others.join(" ")));
                }
                continue;
            }
        }
        if !dropping {
            after.push_str(line);
        }
    }
    after
}

pub(super) fn render(setup: &Setup) -> String {
    let mut text = String::from("# Written by Innkeeper.\n");
    for card in &setup.cards {
        render_card(card, setup, &mut text);
    }
    text
}

fn render_card(card: &Card, setup: &Setup, text: &mut String) {
    let name = &card.name;
    text.push_str(&format!("\nauto {name}\n"));
    let mut gateways: [Option<&Way>; 2] = [true, false]
        .map(|v4| card.routes.iter().find(|way| way.to.is_none() && way.via.is_ipv4() == v4));
    let mut stanzas: Vec<String> = Vec::new();
    if card.dhcp4 {
        stanzas.push(format!("iface {name} inet dhcp\n"));
    }
    if card.dhcp6 {
        stanzas.push(format!("iface {name} inet6 dhcp\n"));
    }
    for (ip, prefix) in &card.addresses {
        let (family, gateway) = match ip {
            IpAddr::V4(_) => ("inet", &mut gateways[0]),
            IpAddr::V6(_) => ("inet6", &mut gateways[1]),
        };
        let mut stanza = format!("iface {name} {family} static\n    address {ip}/{prefix}\n");
        if let Some(way) = gateway.take() {
            stanza.push_str(&format!("    gateway {}\n", way.via));
            if let Some(metric) = way.metric {
                stanza.push_str(&format!("    metric {metric}\n"));
            }
        }
        stanzas.push(stanza);
    }
    if stanzas.is_empty() {
        stanzas.push(format!("iface {name} inet manual\n    up ip link set dev {name} up\n"));
    }
    let first = &mut stanzas[0];
    if let Some(mtu) = card.mtu {
        first.push_str(&format!("    pre-up ip link set dev {name} mtu {mtu}\n"));
    }
    if !setup.dns.is_empty() {
        let all: Vec<String> = setup.dns.iter().map(ToString::to_string).collect();
        first.push_str(&format!("    dns-nameservers {}\n", all.join(" ")));
    }
    if !setup.search.is_empty() {
        first.push_str(&format!("    dns-search {}\n", setup.search.join(" ")));
    }
    // After all addresses: a route may go by any of them.
    let last = stanzas.len() - 1;
    for way in &card.routes {
        let is_gateway = way.to.is_none()
            && !gateways.iter().flatten().any(|left| std::ptr::eq(*left, way))
            && card.routes.iter().find(|w| w.to.is_none() && w.via.is_ipv4() == way.via.is_ipv4())
                == Some(way);
        if is_gateway {
            continue;
        }
        let (to, via) = (way.destination(), way.via);
        let metric = way.metric.map_or(String::new(), |metric| format!(" metric {metric}"));
        stanzas[last]
            .push_str(&format!("    up ip route replace {to} via {via} dev {name}{metric}\n"));
    }
    stanzas.iter().for_each(|stanza| text.push_str(stanza));
}
