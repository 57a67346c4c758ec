//! What one VM more takes of the host's network at its start: its tap, that a
//! port of its bridge, and its rules; beside so many others, in a network
//! namespace of its own.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use inn_domain::network::{
    Attachment, Declared, DeclaredNetwork, NetworkKind, NetworkSpec, Policy, Uplink,
};
use inn_host::tap;
use inn_net::link::Links;
use inn_units::{NetworkId, VmId};

use crate::ports::{Followed, Namespace};
use crate::sample::Samples;

pub(crate) fn one_more(rounds: usize, others: u16) -> anyhow::Result<Samples> {
    let namespace = Namespace::new()?;
    let mut tables = Followed::open(&namespace)?;
    namespace.run(move || -> anyhow::Result<Samples> {
        let mut links = Links::open()?;
        let cards: Vec<Attachment> = (0..others).map(card).collect();
        let taps: Vec<OwnedFd> =
            cards.iter().map(|card| tap::open(card.tap().as_str())).collect::<Result<_, _>>()?;
        let without = Arc::new(Declared {
            networks: vec![network()],
            attachments: cards,
            ..Declared::default()
        });
        let done = links.converge(&without)?;
        anyhow::ensure!(done.failed.is_empty(), "{:?}", done.failed);
        tables.follow(&without)?;
        let one = card(others);
        let mut with = Declared::clone(&without);
        with.attachments.push(one.clone());
        let with = Arc::new(with);
        let mut samples = Samples::default();
        for _ in 0..rounds {
            let begin = Instant::now();
            let tap = tap::open(one.tap().as_str())?;
            let done = links.attach(&with, one.vm)?;
            tables.follow(&with)?;
            samples.push(begin.elapsed());
            anyhow::ensure!(done.failed.is_empty(), "{:?}", done.failed);
            drop(tap);
            links.detach(&with, &one)?;
            tables.follow(&without)?;
        }
        drop(taps);
        Ok(samples)
    })
}

fn network() -> DeclaredNetwork {
    DeclaredNetwork {
        id: NetworkId::from_bytes([0xB2; 5]),
        spec: NetworkSpec {
            name: "bench".parse().expect("a name"),
            kind: NetworkKind::Nat,
            ipv4: "10.213.0.0/16".parse().ok(),
            ipv6: "fd00:1:2:3::/64".parse().ok(),
            uplink: Uplink::DefaultRoute,
            mtu: None,
            peers: false,
            host: false,
            metadata: false,
        },
        uplink4: None,
        uplink6: None,
        mtu: 1500,
    }
}

fn card(at: u16) -> Attachment {
    // The first addresses are the network's and the host's.
    let [high, low] = (at + 2).to_be_bytes();
    Attachment {
        vm: VmId::from_bytes([0xB3, 0, 0, high, low]),
        name: format!("vm{at}").parse().expect("a name"),
        network: network().id,
        mac: [2, 0xB3, 0, 0, high, low],
        ipv4: Some([10, 213, high, low].into()),
        ipv6: format!("fd00:1:2:3::9:{:x}", at + 2).parse().ok(),
        policy: Policy::AllowAll,
    }
}
