//! The task that looks at machines.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use inn_domain::network::tap_name;
use inn_meter::{Counters, Input, Life, Signer, What};
use inn_net::sent::{Carried, Farewells, carried};
use inn_units::VmId;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::files::{FILE_BYTES, size_of};
use super::sample::{Place, look};
use super::{Metering, now};
use crate::error::Chain;
use crate::node::Node;
use crate::vm::VmHandle;

/// Between two looks at all machines: what a host may lose with its power.
const EVERY: Duration = Duration::from_secs(60);

/// How long a machine has run when it is weighed first.
const FIRST: Duration = Duration::from_secs(1);

/// A look costs at most one part in so many of a CPU's time, whatever memory
/// there is to be gone through: large machines are weighed less often.
const SHARE: u32 = 200;

/// Entries of each VM that wait for a disk which takes none, before they become
/// one: what is known of a day by the hour takes some 5 KiB.
const WAIT_EACH: usize = 24;

/// Once all VMs are known.
pub(crate) fn watch_usage(node: &Arc<Node>) {
    node.metering.keeps_only(&|vm| node.vms.of_id(vm).is_some());
    match Farewells::listen() {
        Ok(farewells) => {
            let farewells = Arc::new(farewells);
            node.metering.hears(Arc::clone(&farewells));
            let (of, closing) = (Arc::clone(node), node.closing.clone());
            node.tasks.spawn(closing.run_until_cancelled_owned(async move {
                while farewells.ready().await.is_ok() {
                    of.metering.hear(&farewells);
                }
            }));
        }
        Err(error) => {
            tracing::warn!(%error, "what a VM sends in its last minute is not counted");
        }
    }
    let of = Arc::clone(node);
    node.tasks.spawn(async move {
        let mut next = Instant::now() + EVERY;
        loop {
            // All are cancel safe: whoever told is remembered.
            let whole = tokio::select! {
                () = of.closing.cancelled() => break,
                () = sleep_until(next) => true,
                () = of.metering.new_machine.notified() => false,
            };
            if !whole {
                // What is there by then is weighed at once. Cancel safe.
                let _ = of.closing.run_until_cancelled(sleep(FIRST)).await;
            }
            let took = weigh(&of, whole).await;
            if whole {
                next = Instant::now() + EVERY.max(took * SHARE);
            }
        }
        save(&of, Vec::new()).await;
    });
}

/// All machines, or those that are new.
async fn weigh(node: &Arc<Node>, whole: bool) -> Duration {
    let begun = Instant::now();
    let vms: Vec<VmHandle> = node.vms.all();
    let of = Arc::clone(node);
    let looked = spawn_blocking(move || {
        let links = links();
        let places: Vec<Place> = vms.iter().map(|vm| place(vm, &links)).collect();
        let is_new =
            |place: &Place| place.machine.is_some_and(|(life, _)| of.metering.is_new(life));
        let asked = places.into_iter().filter(|place| whole || is_new(place));
        let inputs = asked.flat_map(|place| {
            let vm = place.vm;
            let seen = look(&of.cgroups, &place);
            seen.into_iter().map(move |what| Input { at: now(), vm, what })
        });
        inputs.collect::<Vec<_>>()
    });
    let Ok(inputs) = looked.await else { return Duration::ZERO };
    if whole {
        save(node, inputs).await;
    } else {
        node.metering.see(inputs);
    }
    begun.elapsed()
}

async fn save(node: &Arc<Node>, inputs: Vec<Input>) {
    let of = Arc::clone(node);
    let saved = spawn_blocking(move || of.metering.pass(&inputs, &of.key)).await;
    if let Ok(Err(error)) = saved {
        tracing::error!(error = %Chain(&error), "what VMs use cannot be written down; it is tried again, and nothing is lost unless the agent ends before");
    }
}

fn links() -> HashMap<String, Carried> {
    match carried() {
        Ok(links) => links.into_iter().collect(),
        Err(error) => {
            tracing::debug!(error = %Chain(&error), "the taps' counters cannot be read");
            HashMap::new()
        }
    }
}

fn place(vm: &VmHandle, links: &HashMap<String, Carried>) -> Place {
    let machine = vm.life().map(|life| {
        let tap = tap_name(vm.id());
        (life, links.get(tap.as_str()).copied())
    });
    Place { vm: vm.id(), machine, directory: vm.paths().dir.clone() }
}

impl Metering {
    fn is_new(&self, life: Life) -> bool {
        !self.lock().weighed.contains(&life)
    }

    fn see(&self, inputs: Vec<Input>) {
        let mut inner = self.lock();
        for Input { vm, what, .. } in inputs {
            inner.weighed_with(&what);
            inner.tell(vm, what);
        }
    }

    /// Blocks.
    pub(super) fn pass(&self, inputs: &[Input], signer: &dyn Signer) -> std::io::Result<()> {
        {
            let mut inner = self.lock();
            inner.weighed.clear();
            for input in inputs {
                inner.weighed_with(&input.what);
                inner.meter.input(input);
            }
        }
        // Lines that wait come first, and there are no more of them the longer
        // they wait.
        if !self.seal(signer)? {
            self.save()?;
            self.seal(signer)?;
        }
        self.save()
    }

    /// Makes lines of what is closed, unless there are some that the disk has
    /// not taken. Whether there were none.
    fn seal(&self, signer: &dyn Signer) -> std::io::Result<bool> {
        let mut inner = self.lock();
        if !inner.unsent.is_empty() {
            inner.meter.tick(now());
            let vms = inner.meter.vms().count().max(1);
            inner.meter.gather(vms * WAIT_EACH);
            return Ok(false);
        }
        if size_of(&self.directory, inner.file) >= FILE_BYTES {
            inner.file += 1;
            inner.meter.new_file();
        }
        let file = inner.file;
        while let Some(line) = inner.meter.block(now(), signer).map_err(std::io::Error::other)? {
            inner.unsent.push((file, line));
        }
        Ok(true)
    }

    /// Those of VMs whose records went while no agent could tell.
    pub(super) fn keeps_only(&self, is_there: &dyn Fn(VmId) -> bool) {
        let known: Vec<VmId> = self.lock().meter.vms().collect();
        for vm in known.into_iter().filter(|vm| !is_there(*vm)) {
            self.ends(vm);
        }
    }

    fn hears(&self, farewells: Arc<Farewells>) {
        *self.farewells.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(farewells);
    }

    /// What taps that are gone had carried.
    pub(super) fn hear(&self, farewells: &Farewells) {
        let gone = farewells.take();
        if gone.is_empty() {
            return;
        }
        let vms: Vec<VmId> = self.lock().meter.vms().collect();
        let taps: HashMap<String, VmId> =
            vms.into_iter().map(|vm| (tap_name(vm).as_str().to_owned(), vm)).collect();
        for (name, Carried { sent, received }) in gone {
            if let Some(vm) = taps.get(&name) {
                self.counts(*vm, Counters { cpu: 0, sent, received });
            }
        }
    }
}

impl super::Inner {
    fn weighed_with(&mut self, what: &What) {
        if let What::Counts { life, .. } = what {
            self.weighed.insert(*life);
        }
    }
}
