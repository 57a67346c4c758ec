//! A setup without any tool: addresses and routes by rtnetlink, and the state
//! that was there before.

use std::io;

use inn_netlink::route::{Held, Rtnetlink};

use super::setup::Setup;
use crate::refusal::{OrRefuse, Refusal};

/// Of the interfaces concerned.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// Index, whether it was up, its MTU.
    links: Vec<(u32, bool, u32)>,
    addresses: Vec<Held>,
    routes: Vec<Held>,
}

impl Before {
    pub(super) fn remember(netlink: &mut Rtnetlink, setup: &Setup) -> io::Result<Self> {
        let indexes: Vec<u32> = setup.cards.iter().map(|card| card.index).collect();
        let links = netlink.links()?.into_iter().filter(|link| indexes.contains(&link.index));
        let links = links.map(|link| (link.index, link.up, link.mtu)).collect();
        let mut addresses = netlink.addresses()?;
        let mut routes = netlink.routes()?;
        for all in [&mut addresses, &mut routes] {
            all.retain(|held| indexes.contains(&held.link) && !held.automatic);
        }
        Ok(Self { links, addresses, routes })
    }

    pub(super) fn restore(&self, netlink: &mut Rtnetlink) -> io::Result<()> {
        let indexes: Vec<u32> = self.links.iter().map(|(index, ..)| *index).collect();
        clear_links(netlink, &indexes)?;
        for (index, up, mtu) in &self.links {
            netlink.set_link(*index, *up, Some(*mtu))?;
        }
        let mut result = Ok(());
        for held in &self.addresses {
            result = result.and(netlink.restore_address(held));
        }
        // One by way of another's network comes after that one.
        let (direct, others): (Vec<_>, Vec<_>) = self.routes.iter().partition(|r| r.prefix != 0);
        for held in direct.into_iter().chain(others) {
            // None over a link that is down.
            if self.links.iter().any(|(index, up, _)| *index == held.link && *up) {
                result = result.and(netlink.restore_route(held));
            }
        }
        Ok(result?)
    }
}

/// Takes away all that was set up on the interfaces.
pub(super) fn clear(netlink: &mut Rtnetlink, setup: &Setup) -> io::Result<()> {
    let indexes: Vec<u32> = setup.cards.iter().map(|card| card.index).collect();
    clear_links(netlink, &indexes)
}

fn clear_links(netlink: &mut Rtnetlink, indexes: &[u32]) -> io::Result<()> {
    let concerned = |held: &Held| indexes.contains(&held.link) && !held.automatic;
    for held in netlink.routes()?.iter().filter(|held| concerned(held)) {
        // Gone with its address, or by itself.
        let _gone = netlink.remove_route(held);
    }
    for held in netlink.addresses()?.iter().filter(|held| concerned(held)) {
        let _gone = netlink.remove_address(held);
    }
    Ok(())
}

pub(super) fn apply(netlink: &mut Rtnetlink, setup: &Setup) -> Result<(), Refusal> {
    clear(netlink, setup).or_refuse(|| "take the old addresses away".into())?;
    for card in &setup.cards {
        let name = &card.name;
        netlink.set_link(card.index, true, card.mtu).or_refuse(|| format!("bring up {name}"))?;
        for (ip, prefix) in &card.addresses {
            netlink
                .add_address(card.index, *ip, *prefix)
                .or_refuse(|| format!("give {name} the address {ip}/{prefix}"))?;
        }
    }
    for card in &setup.cards {
        for way in &card.routes {
            netlink
                .add_route(card.index, way.to, Some(way.via), way.metric.unwrap_or(0))
                .or_refuse(|| format!("route {} by {}", way.destination(), way.via))?;
        }
    }
    Ok(())
}
