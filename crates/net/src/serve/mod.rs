//! The servers on every network's bridge, and the one task that owns them.
//!
//! ```text
//!            ┌── no bridge ◀──────────────┐
//!   declared ┤                            │ its bridge or its addresses changed
//!            └──▶ running: DHCPv4, DHCPv6, advertisements, DNS by UDP and TCP
//!                   a server that fails says why in `Problems`, and is
//!                   started again a second later
//! ```
//!
//! Servers keep nothing between two requests but how often each VM asked, and
//! DNS its cache: what they answer stands in [`Declared`], as it is when they
//! are asked.

mod dhcp;
mod dns;
mod ra;
mod socket;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inn_domain::network::{Attachment, Declared, DeclaredNetwork};
use inn_units::{InterfaceName, NetworkId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::dns::{Cache, Resolved, Resolvers};
use crate::link::Links;

/// A bridge that somebody removed and that was made anew has another index,
/// and sockets on the old one hear nothing, and are not told.
const LOOK: Duration = Duration::from_secs(1);

/// Before a server that has failed is started again.
const AGAIN: Duration = Duration::from_secs(1);

/// A sentence for each server that does not run, by its name.
pub type Problems = BTreeMap<(NetworkId, &'static str), String>;

/// The servers of all networks. Dropped, or its [`Servers::run`], they end.
#[derive(Debug)]
pub struct Servers {
    declared: watch::Receiver<Arc<Declared>>,
    problems: Arc<watch::Sender<Problems>>,
    names: Arc<dns::Names>,
}

/// What each server of a network knows of it.
#[derive(Debug, Clone)]
struct Segment {
    place: Place,
    declared: watch::Receiver<Arc<Declared>>,
    problems: Arc<watch::Sender<Problems>>,
}

/// Where sockets are bound: another place needs other sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    network: NetworkId,
    bridge: InterfaceName,
    index: u32,
    gateway4: Option<Ipv4Addr>,
    gateway6: Option<Ipv6Addr>,
}

impl Servers {
    /// `resolved` is told what the names in policies stand for.
    pub fn new(
        declared: watch::Receiver<Arc<Declared>>,
        resolved: mpsc::Sender<Resolved>,
    ) -> (Self, watch::Receiver<Problems>) {
        Self::with_resolvers(declared, resolved, Resolvers::default())
    }

    /// With another file than /etc/resolv.conf.
    pub fn asking(
        declared: watch::Receiver<Arc<Declared>>,
        resolved: mpsc::Sender<Resolved>,
        configuration: PathBuf,
    ) -> (Self, watch::Receiver<Problems>) {
        let resolvers = Resolvers::of(configuration.clone(), configuration);
        Self::with_resolvers(declared, resolved, resolvers)
    }

    fn with_resolvers(
        declared: watch::Receiver<Arc<Declared>>,
        resolved: mpsc::Sender<Resolved>,
        resolvers: Resolvers,
    ) -> (Self, watch::Receiver<Problems>) {
        let (problems, told) = watch::channel(Problems::new());
        let names = dns::Names {
            resolvers: Mutex::new(resolvers),
            cache: Mutex::new(Cache::default()),
            resolved,
        };
        (Self { declared, problems: Arc::new(problems), names: Arc::new(names) }, told)
    }

    /// Until nobody declares anything any more.
    pub async fn run(mut self) -> io::Result<()> {
        let links = Links::open()?;
        let mut running: HashMap<NetworkId, (Place, JoinSet<()>)> = HashMap::new();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let declared = Arc::clone(&self.declared.borrow_and_update());
            let places: HashMap<NetworkId, Place> = declared
                .networks
                .iter()
                .filter_map(|network| Some((network.id, place(&links, network)?)))
                .collect();
            running.retain(|id, (place, _)| {
                let stays = places.get(id) == Some(&*place);
                if !stays {
                    self.forget_problems(*id);
                }
                stays
            });
            for (id, place) in places {
                running.entry(id).or_insert_with(|| (place.clone(), self.start(place)));
            }
            tokio::select! {
                // Both only wake: what there is to do is read above.
                changed = self.declared.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                _ = look.tick() => {}
            }
        }
    }

    /// Tasks that end when the set is dropped.
    fn start(&self, place: Place) -> JoinSet<()> {
        let (gateway4, gateway6) = (place.gateway4, place.gateway6);
        let segment = Segment {
            place,
            declared: self.declared.clone(),
            problems: Arc::clone(&self.problems),
        };
        let mut tasks = JoinSet::new();
        if let Some(ip) = gateway4 {
            tasks.spawn(again(segment.clone(), "DHCPv4", dhcp::v4));
            self.names(
                &mut tasks,
                &segment,
                ip.into(),
                ["DNS by UDP over IPv4", "DNS by TCP over IPv4"],
            );
        }
        if let Some(ip) = gateway6 {
            tasks.spawn(again(segment.clone(), "DHCPv6", dhcp::v6));
            tasks.spawn(again(segment.clone(), "router advertisements", ra::advertise));
            self.names(
                &mut tasks,
                &segment,
                ip.into(),
                ["DNS by UDP over IPv6", "DNS by TCP over IPv6"],
            );
        }
        tasks
    }

    fn names(
        &self,
        tasks: &mut JoinSet<()>,
        segment: &Segment,
        ip: std::net::IpAddr,
        [udp, tcp]: [&'static str; 2],
    ) {
        let names = Arc::clone(&self.names);
        tasks.spawn(again(segment.clone(), udp, move |segment| {
            dns::udp(segment, ip, Arc::clone(&names))
        }));
        let names = Arc::clone(&self.names);
        tasks.spawn(again(segment.clone(), tcp, move |segment| {
            dns::tcp(segment, ip, Arc::clone(&names))
        }));
    }

    fn forget_problems(&self, id: NetworkId) {
        self.problems.send_if_modified(|all| {
            let before = all.len();
            all.retain(|(network, _), _| *network != id);
            all.len() != before
        });
    }
}

fn place(links: &Links, network: &DeclaredNetwork) -> Option<Place> {
    let bridge = network.bridge();
    Some(Place {
        network: network.id,
        // None, if it is not there.
        index: links.index(bridge.as_str()).ok()?,
        bridge,
        gateway4: network.gateway4(),
        gateway6: network.gateway6(),
    })
}

/// Runs a server for ever, and says why it does not run. A server reports by
/// itself that it does, by [`Segment::runs`].
async fn again<F: Future<Output = io::Error>>(
    segment: Segment,
    name: &'static str,
    server: impl Fn(Segment) -> F,
) {
    loop {
        let error = server(segment.clone()).await;
        let network = segment.place.network;
        let sentence = format!("{name} on {}: {error}", segment.place.bridge);
        let news = segment.problems.send_if_modified(|all| {
            all.insert((network, name), sentence.clone()).as_ref() != Some(&sentence)
        });
        if news {
            tracing::warn!(%network, "{sentence}; it is tried again");
        }
        sleep(AGAIN).await;
    }
}

impl Segment {
    /// Its sockets are there.
    fn runs(&self, name: &'static str) {
        let network = self.place.network;
        self.problems.send_if_modified(|all| all.remove(&(network, name)).is_some());
    }

    /// What is declared now; nothing, if the network is about to go.
    fn now(&self) -> Option<(Arc<Declared>, DeclaredNetwork)> {
        let declared = Arc::clone(&self.declared.borrow());
        let id = self.place.network;
        let network = declared.networks.iter().find(|network| network.id == id)?.clone();
        Some((declared, network))
    }
}

/// Of this network, the VM that `is` says.
fn client(
    declared: &Declared,
    network: NetworkId,
    is: impl Fn(&Attachment) -> bool,
) -> Option<&Attachment> {
    declared.attachments.iter().find(|client| client.network == network && is(client))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Their values are whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
