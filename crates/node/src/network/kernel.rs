//! What the kernel has of our network: read, and made what is declared.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use inn_domain::network::{Attachment, Declared, DeclaredNetwork, Far, Instance, Policy};
use inn_fail_point::{Point, fail_point};
use inn_net::br_netfilter::BrNetfilter;
use inn_net::foreign::{Blocker, Owner};
use inn_net::link::{Converged, LinkStep, Links, Observed};
use inn_net::nft::{self, ElementKey, Family, Fields, ForeignChain};
use inn_net::table::{self, Desired, Tally};
use inn_net::{Resolved, connections};
use inn_units::{InterfaceName, VmId};
use tokio::task::spawn_blocking;

use super::mode::ForeignChoice;
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
    /// The bridges that Docker's chain has rules for; none where that has not
    /// been looked at in this life.
    in_docker: Option<Vec<InterfaceName>>,
    /// What the tables were last made for.
    in_force: Option<Arc<Declared>>,
    /// As it was last read; none where that is in doubt.
    host: Option<Observed>,
    /// Of links, what stood in the way when they were last looked at.
    blocked: Vec<String>,
    foreign: Vec<ForeignChain>,
    br_netfilter: BrNetfilter,
}

/// What a pass reads anew; of all else, what is known of it holds until a
/// monitor tells of a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) links: bool,
    /// Others' tables. Ours have a generation, which is always looked at.
    pub(super) foreign: bool,
    /// What the rules have counted.
    pub(super) counters: bool,
}

impl Look {
    /// What no monitor tells of, too.
    pub(super) const ALL: Self = Self { links: true, foreign: true, counters: false };
}

/// What a pass has come to.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) declared: Arc<Declared>,
    /// What was not as declared, and is now; a sentence each.
    pub(super) mended: Vec<String>,
    pub(super) failed: Vec<String>,
    /// Of the host's links.
    pub(super) blocked: Vec<String>,
    /// Others' chains that are in the way.
    pub(super) foreign: Vec<Blocker>,
    pub(super) hairpins: Option<String>,
    /// firewalld's tables drop what is ours.
    pub(super) shut_by_firewalld: bool,
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
            let inner = Inner {
                links,
                tables,
                desired,
                in_docker: None,
                in_force: None,
                host: None,
                blocked: Vec::new(),
                foreign: Vec::new(),
                br_netfilter: BrNetfilter::default(),
            };
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
    pub(super) async fn pass(&self, node: Arc<crate::node::Node>, look: Look) -> Passed {
        let inner = Arc::clone(&self.inner);
        let passing = spawn_blocking(move || {
            let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.pass(&node.networks, &node.vms, look)
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
    /// Docker's chain has rules for our bridges where that is configured, and
    /// those of an agent that was configured so before go once. Whether that
    /// has changed something.
    fn ask_docker(
        &mut self,
        choice: ForeignChoice,
        declared: &Declared,
        anew: bool,
        passed: &mut Passed,
    ) -> bool {
        let wanted = choice == ForeignChoice::DockerUser;
        let bridges = declared.networks.iter().filter(|_| wanted).map(DeclaredNetwork::bridge);
        let bridges: Vec<_> = bridges.collect();
        if self.in_docker.as_ref() == Some(&bridges) && !(anew && wanted) {
            return false;
        }
        match self.tables.accept_in_docker(&bridges) {
            Ok(done) => {
                self.in_docker = Some(bridges);
                let changed = !done.is_empty();
                passed.mended.extend(done);
                changed
            }
            Err(error) => {
                passed.failed.push(Chain(&error).to_string());
                false
            }
        }
    }

    fn pass(&mut self, networks: &Networks, vms: &Vms, look: Look) -> Passed {
        let mut passed = Passed::default();
        let opened = networks.opened();
        match self.bring_links(networks, vms, look, &opened, &mut passed) {
            Ok(declared) => passed.declared = declared,
            Err(error) => {
                passed.failed.push(format!("cannot read the host's interfaces: {error}"));
                return passed;
            }
        }
        if !passed.failed.is_empty() {
            self.host = None;
        }
        let declared = Arc::clone(&passed.declared);
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
        let asked = self.ask_docker(networks.foreign, &declared, look.foreign, &mut passed);
        if look.foreign || asked {
            self.br_netfilter = BrNetfilter::read();
            match nft::foreign(&declared.instance) {
                Ok(foreign) => self.foreign = foreign,
                Err(error) => passed.failed.push(Chain(&error).to_string()),
            }
        }
        passed.foreign = inn_net::foreign::blockers(&self.foreign, &declared);
        passed.blocked.clone_from(&self.blocked);
        passed.shut_by_firewalld =
            passed.foreign.iter().any(|blocker| blocker.owner == Owner::Firewalld);
        passed.hairpins = self.br_netfilter.blocks(&declared);
        if look.counters {
            passed.tally = self.tables.count().ok().map(table::tally);
        }
        passed
    }

    /// What is declared on a host like this, and its links so.
    fn bring_links(
        &mut self,
        networks: &Networks,
        vms: &Vms,
        look: Look,
        opened: &BTreeSet<VmId>,
        passed: &mut Passed,
    ) -> io::Result<Arc<Declared>> {
        let known = self.host.take().filter(|_| !look.links);
        let before = self.in_force.clone().unwrap_or_default();
        let reads = known.is_none();
        let host = match known {
            Some(host) => host,
            None => self.links.read(&before)?,
        };
        let declared = Arc::new(networks.declared(vms, &host));
        let same_networks = before.networks == declared.networks;
        let gone = changed_cards(&before, &declared).filter(|_| !reads && same_networks);
        let small = match &gone {
            Some(gone) => self.bring_cards(&before, &declared, gone, opened, host.clone()).ok(),
            None => None,
        };
        let done = match small {
            Some(done) => done,
            // Of what was not as it was known to be, too: a bridge that has
            // just been removed.
            None => {
                let done = match same_networks && reads {
                    true => self.links.converge_from(&declared, host)?,
                    // Settings of other bridges were not among what was read.
                    false => self.links.converge(&declared)?,
                };
                self.blocked.clone_from(&done.blocked);
                done
            }
        };
        if !done.steps.is_empty() {
            fail_point(Point::NetworkLinks);
        }
        passed.mended.extend(done.steps.iter().map(LinkStep::to_string));
        passed.failed.extend(done.failed.iter().map(|error| Chain(error).to_string()));
        self.host = Some(done.observed);
        Ok(declared)
    }

    /// The links of VMs that have come and gone, in the same time beside a
    /// thousand others.
    fn bring_cards(
        &mut self,
        before: &Declared,
        declared: &Declared,
        gone: &[&Attachment],
        opened: &BTreeSet<VmId>,
        host: Observed,
    ) -> io::Result<Converged> {
        let mut all = self.links.set(declared, host);
        let mut add = |done: Converged| {
            all.steps.extend(done.steps);
            all.failed.extend(done.failed);
            done.blocked
        };
        // First: another may have its address by now.
        for gone in gone {
            add(self.links.detach(before, gone)?);
        }
        for attachment in &declared.attachments {
            if opened.contains(&attachment.vm) {
                let blocked = add(self.links.attach(declared, attachment.vm)?);
                self.blocked.extend(blocked);
            }
        }
        Ok(all)
    }
}

/// Those that are there no more; none where one has become another, so that
/// all of its links are to be looked at.
fn changed_cards<'a>(before: &'a Declared, now: &Declared) -> Option<Vec<&'a Attachment>> {
    let here: HashMap<VmId, &Attachment> =
        now.attachments.iter().map(|card| (card.vm, card)).collect();
    let mut gone = Vec::new();
    for old in &before.attachments {
        match here.get(&old.vm) {
            None => gone.push(old),
            Some(new) => {
                let policy = old.policy.clone();
                let as_before = Attachment { policy, ..(*new).clone() };
                if as_before != *old {
                    return None;
                }
            }
        }
    }
    Some(gone)
}
