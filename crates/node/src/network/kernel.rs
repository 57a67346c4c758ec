//! What the kernel has of our network: read, and made what is declared.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use inn_domain::network::{Declared, Far, Instance, Policy};
use inn_fail_point::{Point, fail_point};
use inn_net::link::{LinkStep, Links, Observed};
use inn_net::nft::{self, ElementKey, Family, Fields};
use inn_net::table::{self, Desired, Tally};
use inn_net::{Resolved, connections};
use tokio::task::spawn_blocking;

use super::severed::severed;
use super::state::Networks;
use crate::error::Chain;
use crate::vm::Vms;

/// The sockets through which it is asked and told. One pass at a time.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    links: Links,
    tables: nft::Kernel,
    desired: Desired,
    /// What the tables were last made for.
    in_force: Option<Arc<Declared>>,
}

/// What a pass has come to.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) declared: Arc<Declared>,
    /// What was not as declared, and is now; a sentence each.
    pub(super) mended: Vec<String>,
    pub(super) failed: Vec<String>,
    pub(super) blocked: Vec<String>,
    pub(super) tally: Option<Tally>,
}

/// Why nf_tables cannot be had here.
pub(super) fn lacking() -> Option<String> {
    match nft::Kernel::open(Instance::default()) {
        Ok(_) => None,
        Err(error) => Some(Chain(&error).to_string()),
    }
}

/// What the host has of networks now.
pub(super) async fn observe() -> io::Result<Observed> {
    spawn_blocking(|| Links::open()?.read(&Declared::default()))
        .await
        .map_err(io::Error::other)?
        .map_err(io::Error::from)
}

impl Kernel {
    pub(super) async fn open(instance: Instance) -> io::Result<Self> {
        spawn_blocking(|| {
            let links = Links::open()?;
            let tables = nft::Kernel::open(instance).map_err(io::Error::other)?;
            let desired = Desired::default();
            let inner = Inner { links, tables, desired, in_force: None };
            Ok(Self { inner: Arc::new(Mutex::new(inner)) })
        })
        .await
        .map_err(io::Error::other)?
    }

    /// Tells of others' changes, and not of this one's.
    pub(super) fn monitor(&self, instance: &Instance) -> io::Result<nft::Monitor> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        nft::Monitor::open(instance, inner.tables.port()).map_err(io::Error::other)
    }

    /// Reads, plans, applies: links before the rules that name them.
    pub(super) async fn pass(&self, node: Arc<crate::node::Node>, count: bool) -> Passed {
        let inner = Arc::clone(&self.inner);
        let passing = spawn_blocking(move || {
            let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.pass(&node.networks, &node.vms, count)
        });
        passing.await.unwrap_or_else(|error| Passed {
            failed: vec![format!("the pass has panicked: {error}")],
            ..Passed::default()
        })
    }

    /// Lets a VM reach what a name in its policy stands for.
    pub(super) async fn learn(&self, resolved: &Resolved, policy: Policy) -> io::Result<()> {
        let Policy::Rules { rules, .. } = policy else { return Ok(()) };
        // It may have changed while the name was asked for.
        let Some(Far::Domain(domain)) = rules.get(resolved.rule).map(|rule| &rule.far) else {
            return Ok(());
        };
        let sets = table::domain_sets(resolved.vm, domain);
        let lifetime = u64::try_from(resolved.lifetime.as_millis()).unwrap_or(u64::MAX);
        let addresses = resolved.addresses.clone();
        let inner = Arc::clone(&self.inner);
        let learning = spawn_blocking(move || {
            let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
            for (set, is_v4) in sets.iter().zip([true, false]) {
                let of_family = addresses.iter().filter(|address| address.is_ipv4() == is_v4);
                let elements: Vec<_> = of_family
                    .map(|ip| (ElementKey::single(Fields::default().ip(*ip).bytes()), lifetime))
                    .collect();
                if !elements.is_empty() {
                    inner.tables.learn(Family::Inet, set, &elements)?;
                }
            }
            Ok::<_, nft::KernelError>(())
        });
        learning.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }
}

impl Inner {
    fn pass(&mut self, networks: &Networks, vms: &Vms, count: bool) -> Passed {
        let mut passed = Passed::default();
        let host = match self.links.read(&Declared::default()) {
            Ok(host) => host,
            Err(error) => {
                passed.failed.push(format!("cannot read the host's interfaces: {error}"));
                return passed;
            }
        };
        let declared = Arc::new(networks.declared(vms, &host));
        passed.declared = Arc::clone(&declared);
        match self.links.converge(&declared) {
            Ok(done) => {
                if !done.steps.is_empty() {
                    fail_point(Point::NetworkLinks);
                }
                passed.mended.extend(done.steps.iter().map(LinkStep::to_string));
                passed.failed.extend(done.failed.iter().map(|error| Chain(error).to_string()));
                passed.blocked = done.blocked;
            }
            Err(error) => passed.failed.push(format!("cannot read the host's interfaces: {error}")),
        }
        self.desired.follow(&declared);
        match self.tables.follow(self.desired.wanted()) {
            Ok(done) => {
                if !done.is_empty() {
                    fail_point(Point::NetworkTables);
                }
                passed.mended.extend(done.to_string().lines().map(str::to_owned));
                let before = self.in_force.replace(Arc::clone(&declared));
                let ended = before.map(|before| severed(&before, &declared)).unwrap_or_default();
                if let Err(error) = connections::forget(&ended) {
                    passed.failed.push(Chain(&error).to_string());
                }
            }
            Err(error) => passed.failed.push(Chain(&error).to_string()),
        }
        match nft::foreign(&declared.instance) {
            Ok(foreign) => {
                let blockers = inn_net::foreign::blockers(&foreign, &declared);
                passed.blocked.extend(blockers.iter().map(ToString::to_string));
            }
            Err(error) => passed.failed.push(Chain(&error).to_string()),
        }
        if count {
            passed.tally = self.tables.count().ok().map(table::tally);
        }
        passed
    }
}
