use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use inn_domain::{Desired, Power, ResourceLimits, VmPhase};
use inn_units::{Bytes, Generation, VmId};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use crate::connection::Db;
use crate::convert::{self, millis};
use crate::error::{StoreError, is_full};
use crate::keys::{self, KeyMark};
use crate::network_rows::StoredPolicy;
use crate::networks::{VmParts, insert_lease, insert_port_maps, port_map_rows};
use crate::records::{Durability, ObservedRecord, ProbeKey, ProbeRecord, TtlRecord, VmRecord};
use crate::row::{StoredDesired, StoredLimits, StoredMachine, StoredSpec, StoredTtl};
use crate::successors::forget;

/// Writes that wait for the thread. Each caller waits for its own, so that
/// this is as many as there are VMs that change at the same instant.
const QUEUE: usize = 64;

type Job = Box<dyn FnOnce(&mut Db) + Send>;

/// The state database. Clones share it; the thread ends with the last one.
#[derive(Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
    thread: Arc<JoinHandle<()>>,
    path: Arc<Path>,
}

impl Store {
    /// Opens `data_dir/state.db`, makes it if need be and brings it up to this
    /// version's schema. Blocks.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join("state.db");
        let mut db = Db::open(&path)?;
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&mut db);
                }
            })
            .map_err(|source| StoreError::Open { path: path.clone(), source: source.into() })?;
        Ok(Self { jobs, thread: Arc::new(thread), path: path.into() })
    }

    /// Closes the database, unless another clone goes on with it: then the
    /// last one closes it, whenever it goes. Blocks.
    pub fn close(self) {
        let Self { jobs, thread, .. } = self;
        drop(jobs);
        if let Some(thread) = Arc::into_inner(thread) {
            // It fails by a panic alone, which was told when it came about.
            let _ = thread.join();
        }
    }

    /// Accepts a VM, durably. Nothing of it may exist before.
    pub async fn insert_vm(
        &self,
        record: VmRecord,
        durability: Durability,
    ) -> Result<(), StoreError> {
        self.insert_vm_for(record, durability, None).await
    }

    /// The same, and in one transaction with it the key of whoever asked.
    pub async fn insert_vm_for(
        &self,
        record: VmRecord,
        durability: Durability,
        mark: Option<KeyMark>,
    ) -> Result<(), StoreError> {
        self.insert_vm_with(record, durability, mark, VmParts::default()).await
    }

    /// And with that its addresses, and the ports of the host that lead to it.
    pub async fn insert_vm_with(
        &self,
        record: VmRecord,
        durability: Durability,
        mark: Option<KeyMark>,
        parts: VmParts<'_>,
    ) -> Result<(), StoreError> {
        let ports = port_map_rows(parts.ports)?;
        let lease = parts.lease;
        let spec = json("a VM's spec", &StoredSpec::from(&record.spec))?;
        let desired = json("what is desired", &StoredDesired::from(&record.desired))?;
        let ttl = record.ttl.as_ref().map(|ttl| json("a VM's time", &StoredTtl::from(ttl)));
        let ttl = ttl.transpose()?;
        self.call("insert a VM", durability, move |c| {
            let change = c.unchecked_transaction()?;
            change.execute(
                "INSERT INTO vms (id, name, spec, desired, generation, created_at, ttl) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    record.id.to_string(),
                    record.spec.name.as_str(),
                    spec,
                    desired,
                    integer(record.desired.generation.0),
                    record.created_at.to_string(),
                    ttl,
                ],
            )?;
            if let Some(mark) = &mark {
                keys::record(&change, mark, Some(record.id))?;
            }
            insert_port_maps(&change, &ports)?;
            if let Some(lease) = &lease {
                insert_lease(&change, lease)?;
            }
            change.commit()
        })
        .await
        .map_err(|error| match error {
            StoreError::Sql { source, .. } if is_unique(&source) => StoreError::NameTaken,
            error => error,
        })?;
        Ok(())
    }

    pub async fn set_desired(
        &self,
        id: VmId,
        desired: Desired,
        durability: Durability,
    ) -> Result<(), StoreError> {
        self.set_desired_for(id, desired, durability, None).await
    }

    /// The same, and in one transaction with it the key of whoever asked.
    pub async fn set_desired_for(
        &self,
        id: VmId,
        desired: Desired,
        durability: Durability,
        mark: Option<KeyMark>,
    ) -> Result<(), StoreError> {
        let text = json("what is desired", &StoredDesired::from(&desired))?;
        let write = move |c: &Connection| {
            let change = c.unchecked_transaction()?;
            change.execute(
                "UPDATE vms SET desired = ?2, generation = ?3 WHERE id = ?1",
                params![id.to_string(), text, integer(desired.generation.0)],
            )?;
            if let Some(mark) = &mark {
                keys::record(&change, mark, Some(id))?;
            }
            change.commit()
        };
        match desired.power {
            Power::Running => self.call("update a VM", durability, write).await?,
            Power::Stopped | Power::Deleted => {
                self.call_from_reserve("update a VM", durability, write).await?
            }
        };
        Ok(())
    }

    /// The VM's time is over: what is desired for that, and no time any more,
    /// in one.
    pub async fn end_ttl(
        &self,
        id: VmId,
        desired: Desired,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let text = json("what is desired", &StoredDesired::from(&desired))?;
        self.call_from_reserve("end a VM's time", durability, move |c| {
            c.execute(
                "UPDATE vms SET desired = ?2, generation = ?3, ttl = NULL WHERE id = ?1",
                params![id.to_string(), text, integer(desired.generation.0)],
            )
        })
        .await?;
        Ok(())
    }

    /// What the VM's disk has grown to, durably. Nothing may be that large
    /// before.
    pub async fn set_grown_disk(
        &self,
        id: VmId,
        size: Bytes,
        durability: Durability,
    ) -> Result<(), StoreError> {
        self.call("update a VM's disk", durability, move |c| {
            c.execute(
                "UPDATE vms SET grown_disk = ?2 WHERE id = ?1",
                params![id.to_string(), integer(size.get())],
            )
        })
        .await?;
        Ok(())
    }

    /// What the VM's machine may use from now on.
    pub async fn set_limits(
        &self,
        id: VmId,
        limits: ResourceLimits,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let text = json("a VM's limits", &StoredLimits::from(limits))?;
        self.call("update a VM's limits", durability, move |c| {
            c.execute("UPDATE vms SET limits = ?2 WHERE id = ?1", params![id.to_string(), text])
        })
        .await?;
        Ok(())
    }

    /// The time that a VM has to live, or none.
    pub async fn set_ttl(
        &self,
        id: VmId,
        ttl: Option<TtlRecord>,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let text = ttl.as_ref().map(|ttl| json("a VM's time", &StoredTtl::from(ttl)));
        let text = text.transpose()?;
        self.call("update a VM's time", durability, move |c| {
            c.execute("UPDATE vms SET ttl = ?2 WHERE id = ?1", params![id.to_string(), text])
        })
        .await?;
        Ok(())
    }

    /// What is observed of a VM that has been forgotten is dropped.
    pub async fn set_observed(&self, id: VmId, record: ObservedRecord) -> Result<(), StoreError> {
        let row = ObservedRow::of(&record)?;
        self.call("update what is observed of a VM", Durability::Agent, move |c| {
            c.execute(
                "INSERT INTO vm_observed (id, phase, observed_generation, disks, up_run, machine, \
                   down, failure, workload, started_at, boot_ms, last_end, boots, backoff, receipt) \
                 SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15 \
                 WHERE EXISTS (SELECT 1 FROM vms WHERE id = ?1) \
                 ON CONFLICT (id) DO UPDATE SET phase = ?2, observed_generation = ?3, disks = ?4, \
                   up_run = ?5, machine = ?6, down = ?7, failure = ?8, workload = ?9, \
                   started_at = ?10, boot_ms = ?11, last_end = ?12, boots = ?13, backoff = ?14, \
                   receipt = ?15",
                params![
                    id.to_string(),
                    row.phase,
                    row.observed_generation,
                    row.disks,
                    row.up_run,
                    row.machine,
                    row.down,
                    row.failure,
                    row.workload,
                    row.started_at,
                    row.boot_ms,
                    row.last_end,
                    row.boots,
                    row.backoff,
                    row.receipt,
                ],
            )
        })
        .await?;
        Ok(())
    }

    /// The VM's record goes, and its name is free, or its successor's.
    pub async fn forget_vm(&self, id: VmId, durability: Durability) -> Result<(), StoreError> {
        let id = id.to_string();
        self.call_from_reserve("forget a VM", durability, move |c| forget(c, &id)).await?;
        // Its disk is gone: there may be room again.
        self.run(|db| db.reserve.hold()).await?;
        Ok(())
    }

    /// All VMs with what was last seen of them, in the order of creation.
    pub async fn vms(&self) -> Result<Vec<(VmRecord, ObservedRecord)>, StoreError> {
        let rows = self
            .call("read the VMs", Durability::Agent, |c| {
                let mut query = c.prepare(
                    "SELECT v.id, v.spec, v.desired, v.generation, v.created_at, \
                            o.observed_generation, o.disks, o.up_run, o.machine, o.down, \
                            o.failure, o.workload, o.started_at, o.boot_ms, o.last_end, \
                            v.grown_disk, o.boots, v.limits, v.ttl, o.backoff, v.policy, \
                            o.receipt \
                     FROM vms v LEFT JOIN vm_observed o ON o.id = v.id \
                     ORDER BY v.created_at, v.id",
                )?;
                query.query_map([], VmRow::read)?.collect::<Result<Vec<_>, _>>()
            })
            .await?;
        rows.into_iter().map(VmRow::into_records).collect()
    }

    pub async fn node_value(&self, key: &'static str) -> Result<Option<String>, StoreError> {
        self.call("read a fact of the node", Durability::Agent, move |c| {
            c.query_row("SELECT value FROM node WHERE key = ?1", [key], |row| row.get(0)).optional()
        })
        .await
    }

    pub async fn set_node_value(&self, key: &'static str, value: String) -> Result<(), StoreError> {
        self.call("write a fact of the node", Durability::Host, move |c| {
            c.execute(
                "INSERT INTO node (key, value) VALUES (?1, ?2) \
                 ON CONFLICT (key) DO UPDATE SET value = ?2",
                params![key, value],
            )
        })
        .await?;
        Ok(())
    }

    pub async fn probe(&self, key: ProbeKey) -> Result<Option<ProbeRecord>, StoreError> {
        self.call("read a probe's verdict", Durability::Agent, move |c| {
            c.query_row(
                "SELECT usable, reason, took_ms FROM probes \
                 WHERE kernel = ?1 AND vmm = ?2 AND host_boot = ?3",
                params![key.kernel.to_string(), key.vmm, key.host_boot],
                read_probe,
            )
            .optional()
        })
        .await
    }

    /// Of the verdicts of this boot of the host the best one, whichever kernel
    /// and VMM it is of.
    pub async fn best_probe(&self, host_boot: String) -> Result<Option<ProbeRecord>, StoreError> {
        self.call("read the probes' verdicts", Durability::Agent, move |c| {
            c.query_row(
                "SELECT usable, reason, took_ms FROM probes \
                 WHERE host_boot = ?1 ORDER BY usable DESC, took_ms LIMIT 1",
                [host_boot],
                read_probe,
            )
            .optional()
        })
        .await
    }

    /// Verdicts of earlier boots of the host go: they hold for nothing more.
    pub async fn set_probe(&self, key: ProbeKey, probe: ProbeRecord) -> Result<(), StoreError> {
        self.call("write a probe's verdict", Durability::Agent, move |c| {
            let change = c.unchecked_transaction()?;
            change.execute("DELETE FROM probes WHERE host_boot != ?1", [&key.host_boot])?;
            change.execute(
                "INSERT OR REPLACE INTO probes (kernel, vmm, host_boot, usable, reason, took_ms) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    key.kernel.to_string(),
                    key.vmm,
                    key.host_boot,
                    probe.usable,
                    probe.reason,
                    integer(millis(probe.took)),
                ],
            )?;
            change.commit()
        })
        .await
    }

    pub(crate) async fn call<T: Send + 'static>(
        &self,
        step: &'static str,
        durability: Durability,
        body: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let done = self
            .run(move |db| db.set_durability(durability).and_then(|()| body(&db.connection)))
            .await?;
        done.map_err(|source| self.explain(step, source))
    }

    /// The same for what leads to room on a disk that has none: the room for
    /// this itself is in reserve.
    pub(crate) async fn call_from_reserve<T: Send + 'static>(
        &self,
        step: &'static str,
        durability: Durability,
        body: impl Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let write = move |db: &mut Db| {
            db.set_durability(durability)?;
            match body(&db.connection) {
                Err(full) if is_full(&full) && db.reserve.give() => body(&db.connection),
                done => done,
            }
        };
        self.run(write).await?.map_err(|source| self.explain(step, source))
    }

    async fn run<T: Send + 'static>(
        &self,
        body: impl FnOnce(&mut Db) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |db| {
            // A caller that has gone does not undo what it asked for.
            let _ = answer.send(body(db));
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)
    }

    fn explain(&self, step: &'static str, source: rusqlite::Error) -> StoreError {
        match source {
            full if is_full(&full) => StoreError::Full { path: self.path.to_path_buf() },
            source => StoreError::Sql { step, source },
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// The columns of `vm_observed`, ready to be bound.
struct ObservedRow {
    phase: String,
    observed_generation: i64,
    disks: bool,
    up_run: Option<i64>,
    machine: Option<String>,
    down: Option<String>,
    failure: Option<String>,
    workload: Option<String>,
    started_at: Option<String>,
    boot_ms: Option<i64>,
    last_end: Option<String>,
    boots: Option<String>,
    backoff: Option<String>,
    receipt: Option<String>,
}

impl ObservedRow {
    fn of(record: &ObservedRecord) -> Result<Self, StoreError> {
        use crate::row::{
            StoredBackoff, StoredBoots, StoredDown, StoredEnd, StoredFailure, StoredWorkload,
        };
        let observed = &record.observed;
        let boots = record.boots.last.is_some().then(|| StoredBoots::from(&record.boots));
        let machine = observed.machine.map(|view| {
            StoredMachine::new(view, record.machine.as_ref(), record.cloud_init.as_ref())
        });
        let optional = |text: Option<Result<String, StoreError>>| text.transpose();
        Ok(Self {
            phase: record.phase.unwrap_or(VmPhase::Pending).to_string(),
            observed_generation: integer(record.observed_generation.0),
            disks: observed.disks,
            up_run: observed.up_run.map(|run| integer(run.0)),
            machine: optional(machine.map(|m| json("a machine", &m)))?,
            down: optional(observed.down.map(|d| json("an end", &StoredDown::from(d))))?,
            failure: optional(
                record.failure.as_ref().map(|f| json("a failure", &StoredFailure::from(f))),
            )?,
            workload: optional(
                record.workload.as_ref().map(|w| json("a workload", &StoredWorkload::from(w))),
            )?,
            started_at: record.started_at.map(|at| at.to_string()),
            boot_ms: record.boot.map(|took| integer(millis(took))),
            last_end: optional(
                record.last_end.as_ref().map(|end| json("a machine's end", &StoredEnd::from(end))),
            )?,
            boots: optional(boots.map(|boots| json("how a VM came up", &boots)))?,
            backoff: optional(record.backoff.map(|b| json("a backoff", &StoredBackoff::from(b))))?,
            receipt: optional(
                record
                    .receipt
                    .as_ref()
                    .map(|r| json("a receipt", &crate::row::StoredReceipt::from(r))),
            )?,
        })
    }
}

pub(crate) struct VmRow {
    id: String,
    spec: String,
    desired: String,
    generation: i64,
    created_at: String,
    observed_generation: Option<i64>,
    disks: Option<bool>,
    up_run: Option<i64>,
    machine: Option<String>,
    down: Option<String>,
    failure: Option<String>,
    workload: Option<String>,
    started_at: Option<String>,
    boot_ms: Option<i64>,
    last_end: Option<String>,
    grown_disk: Option<i64>,
    ttl: Option<String>,
    boots: Option<String>,
    limits: Option<String>,
    backoff: Option<String>,
    policy: Option<String>,
    receipt: Option<String>,
}

impl VmRow {
    pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            spec: row.get(1)?,
            desired: row.get(2)?,
            generation: row.get(3)?,
            created_at: row.get(4)?,
            observed_generation: row.get(5)?,
            disks: row.get(6)?,
            up_run: row.get(7)?,
            machine: row.get(8)?,
            down: row.get(9)?,
            failure: row.get(10)?,
            workload: row.get(11)?,
            started_at: row.get(12)?,
            boot_ms: row.get(13)?,
            last_end: row.get(14)?,
            grown_disk: row.get(15)?,
            boots: row.get(16)?,
            limits: row.get(17)?,
            ttl: row.get(18)?,
            backoff: row.get(19)?,
            policy: row.get(20)?,
            receipt: row.get(21)?,
        })
    }

    pub(crate) fn into_records(self) -> Result<(VmRecord, ObservedRecord), StoreError> {
        use crate::row::{
            StoredBackoff, StoredBoots, StoredDown, StoredEnd, StoredFailure, StoredReceipt,
            StoredWorkload,
        };
        let what = format!("the VM {}", self.id);
        let bad = |why: String| StoreError::Row { what: what.clone(), why };
        let spec: StoredSpec = parse(&what, &self.spec)?;
        let desired: StoredDesired = parse(&what, &self.desired)?;
        let time = |text: &str| text.parse::<Timestamp>().map_err(|e| bad(e.to_string()));
        let record = VmRecord {
            id: self.id.parse::<VmId>().map_err(|e| bad(e.to_string()))?,
            spec: spec.into_spec().map_err(bad)?,
            desired: desired.into_desired(Generation(unsigned(self.generation))),
            grown_disk: self.grown_disk.map(|size| Bytes(unsigned(size))),
            changed_limits: parse_some::<StoredLimits>(&what, self.limits)?.map(Into::into),
            changed_policy: parse_some::<StoredPolicy>(&what, self.policy)?
                .map(StoredPolicy::into_policy)
                .transpose()
                .map_err(bad)?,
            created_at: time(&self.created_at)?,
            ttl: parse_some::<StoredTtl>(&what, self.ttl)?.map(Into::into),
        };
        let (view, machine, cloud_init) = match parse_some::<StoredMachine>(&what, self.machine)? {
            Some(stored) => {
                let (view, machine, cloud_init) = stored.into_parts();
                (Some(view), machine, cloud_init)
            }
            None => (None, None, None),
        };
        let down = parse_some::<StoredDown>(&what, self.down)?;
        let up_run = self.up_run.map(|run| Generation(unsigned(run)));
        let observed = ObservedRecord {
            observed: convert::observed(self.disks.unwrap_or(false), view, down, up_run),
            phase: None,
            observed_generation: Generation(unsigned(self.observed_generation.unwrap_or(0))),
            machine,
            cloud_init,
            failure: parse_some::<StoredFailure>(&what, self.failure)?.map(Into::into),
            workload: parse_some::<StoredWorkload>(&what, self.workload)?.map(Into::into),
            started_at: self.started_at.as_deref().map(time).transpose()?,
            boot: self.boot_ms.map(|ms| Duration::from_millis(unsigned(ms))),
            last_end: parse_some::<StoredEnd>(&what, self.last_end)?.map(Into::into),
            backoff: parse_some::<StoredBackoff>(&what, self.backoff)?.map(Into::into),
            boots: parse_some::<StoredBoots>(&what, self.boots)?
                .map(Into::into)
                .unwrap_or_default(),
            receipt: parse_some::<StoredReceipt>(&what, self.receipt)?.map(Into::into),
        };
        Ok((record, observed))
    }
}

pub(crate) fn json(what: &str, value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value)
        .map_err(|e| StoreError::Row { what: what.to_owned(), why: e.to_string() })
}

pub(crate) fn parse<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text)
        .map_err(|e| StoreError::Row { what: what.to_owned(), why: e.to_string() })
}

fn parse_some<T: DeserializeOwned>(
    what: &str,
    text: Option<String>,
) -> Result<Option<T>, StoreError> {
    text.map(|text| parse(what, &text)).transpose()
}

/// SQLite's integers are signed; nothing we count comes near their end.
pub(crate) fn integer(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(crate) fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

fn read_probe(row: &Row<'_>) -> rusqlite::Result<ProbeRecord> {
    Ok(ProbeRecord {
        usable: row.get(0)?,
        reason: row.get(1)?,
        took: Duration::from_millis(unsigned(row.get(2)?)),
    })
}

pub(crate) fn is_unique(error: &rusqlite::Error) -> bool {
    // sqlite.org/rescode.html: SQLITE_CONSTRAINT_UNIQUE.
    const CONSTRAINT_UNIQUE: i32 = 2067;
    matches!(error, rusqlite::Error::SqliteFailure(e, _) if e.extended_code == CONSTRAINT_UNIQUE)
}

#[cfg(test)]
#[path = "store_tests.rs"]
pub(crate) mod tests;

#[cfg(test)]
#[path = "power_tests.rs"]
mod power_tests;

#[cfg(test)]
#[path = "keys_tests.rs"]
mod keys_tests;

#[cfg(test)]
#[path = "upgrade_tests.rs"]
mod upgrade_tests;
