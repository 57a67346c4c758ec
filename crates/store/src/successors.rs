//! VMs that take another one's place.
//!
//! ```text
//!   replace_vm   one write: the old one is to be deleted, and this comes after it
//!   forget_vm    one write: the old one's record goes, and this is a VM
//! ```
//!
//! So at any instant, whenever the power fails, one of the two is there.

use inn_domain::Desired;
use inn_domain::network::PortMap;
use inn_units::VmId;
use rusqlite::{Connection, params};

use crate::error::StoreError;
use crate::keys::{self, KeyMark};
use crate::networks::{insert_port_maps, port_map_rows};
use crate::records::{Durability, VmRecord};
use crate::row::{StoredDesired, StoredSpec, StoredTtl};
use crate::store::{Store, VmRow, integer, json};

impl Store {
    /// Has a VM be deleted, as `desired` says, and another one come after it;
    /// in one transaction with it the key of whoever asked.
    pub async fn replace_vm(
        &self,
        old: VmId,
        desired: Desired,
        (successor, mark): (VmRecord, Option<KeyMark>),
        durability: Durability,
    ) -> Result<(), StoreError> {
        self.replace_vm_with(old, desired, (successor, mark), &[], durability).await
    }

    /// And with that the ports of the host that will lead to it.
    pub async fn replace_vm_with(
        &self,
        old: VmId,
        desired: Desired,
        (successor, mark): (VmRecord, Option<KeyMark>),
        ports: &[PortMap],
        durability: Durability,
    ) -> Result<(), StoreError> {
        let ports = port_map_rows(ports)?;
        let old_desired = json("what is desired", &StoredDesired::from(&desired))?;
        let spec = json("a VM's spec", &StoredSpec::from(&successor.spec))?;
        let fresh = json("what is desired", &StoredDesired::from(&successor.desired))?;
        let ttl = successor.ttl.as_ref().map(|ttl| json("a VM's time", &StoredTtl::from(ttl)));
        let ttl = ttl.transpose()?;
        self.call("replace a VM", durability, move |c| {
            let change = c.unchecked_transaction()?;
            change.execute(
                "UPDATE vms SET desired = ?2, generation = ?3 WHERE id = ?1",
                params![old.to_string(), old_desired, integer(desired.generation.0)],
            )?;
            change.execute(
                "INSERT INTO successors (of, id, name, spec, desired, generation, created_at, ttl) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    old.to_string(),
                    successor.id.to_string(),
                    successor.spec.name.as_str(),
                    spec,
                    fresh,
                    integer(successor.desired.generation.0),
                    successor.created_at.to_string(),
                    ttl,
                ],
            )?;
            if let Some(mark) = &mark {
                keys::record(&change, mark, Some(successor.id))?;
            }
            insert_port_maps(&change, &ports)?;
            change.commit()
        })
        .await
    }

    /// The VM is not replaced after all. Whether it would have been.
    pub async fn withdraw_successor(
        &self,
        of: VmId,
        durability: Durability,
    ) -> Result<bool, StoreError> {
        let gone = self
            .call_from_reserve("withdraw a VM's successor", durability, move |c| {
                c.execute("DELETE FROM successors WHERE of = ?1", [of.to_string()])
            })
            .await?;
        Ok(gone > 0)
    }

    /// Those that wait, each with the VM whose place it takes.
    pub async fn successors(&self) -> Result<Vec<(VmId, VmRecord)>, StoreError> {
        let rows: Vec<(String, VmRow)> = self
            .call("read the VMs' successors", Durability::Agent, |c| {
                c.prepare(
                    "SELECT id, spec, desired, generation, created_at, NULL, NULL, NULL, NULL, \
                            NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, ttl, NULL, NULL, NULL, of \
                     FROM successors",
                )?
                .query_map([], |row| Ok((row.get("of")?, VmRow::read(row)?)))?
                .collect()
            })
            .await?;
        rows.into_iter()
            .map(|(of, row)| {
                let bad = |why: inn_units::ParseError| StoreError::Row {
                    what: format!("the successor of the VM {of}"),
                    why: why.to_string(),
                };
                Ok((of.parse().map_err(bad)?, row.into_records()?.0))
            })
            .collect()
    }
}

/// The VM's record goes, and its successor's, if there is one, takes its place.
pub(crate) fn forget(c: &Connection, id: &str) -> rusqlite::Result<()> {
    let change = c.unchecked_transaction()?;
    change.execute("DELETE FROM vms WHERE id = ?1", [id])?;
    change.execute(
        "INSERT INTO vms (id, name, spec, desired, generation, created_at, ttl) \
         SELECT id, name, spec, desired, generation, created_at, ttl FROM successors \
         WHERE of = ?1",
        [id],
    )?;
    change.execute("DELETE FROM successors WHERE of = ?1", [id])?;
    change.commit()
}

#[cfg(test)]
mod tests {
    use inn_domain::{Power, StopKind};

    use super::*;
    use crate::store::tests::{record, seen};

    #[tokio::test]
    async fn a_successor_is_there_once_the_one_before_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (old, other) = (record(1), record(2));
        let mut new = record(3);
        new.spec.name = old.spec.name.clone();
        for vm in [&old, &other] {
            store.insert_vm(vm.clone(), Durability::Host).await.unwrap();
        }
        store.set_observed(old.id, seen()).await.unwrap();
        let mut gone = old.desired.clone();
        gone.power = Power::Deleted;
        gone.stop = StopKind::Force;
        let replace =
            || store.replace_vm(old.id, gone.clone(), (new.clone(), None), Durability::Host);
        replace().await.unwrap();
        assert!(replace().await.is_err(), "one at a time");

        let again = Store::open(dir.path()).unwrap();
        assert_eq!(again.successors().await.unwrap(), [(old.id, new.clone())]);
        let all = again.vms().await.unwrap();
        assert_eq!(all.iter().map(|(vm, _)| vm.id).collect::<Vec<_>>(), [old.id, other.id]);
        assert_eq!(all[0].0.desired, gone);

        again.forget_vm(old.id, Durability::Host).await.unwrap();
        assert_eq!(store.successors().await.unwrap(), []);
        let all = store.vms().await.unwrap();
        assert_eq!(all.iter().map(|(vm, _)| vm).collect::<Vec<_>>(), [&other, &new]);
        assert_eq!(all[1].1, crate::ObservedRecord::default(), "nothing of the old one's");
        assert!(store.insert_vm(record(1), Durability::Host).await.is_err(), "its name is taken");
    }

    #[tokio::test]
    async fn one_that_is_withdrawn_never_comes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (old, new) = (record(1), record(3));
        store.insert_vm(old.clone(), Durability::Host).await.unwrap();
        store.replace_vm(old.id, old.desired.clone(), (new, None), Durability::Host).await.unwrap();
        assert!(store.withdraw_successor(old.id, Durability::Host).await.unwrap());
        assert!(!store.withdraw_successor(old.id, Durability::Host).await.unwrap());
        store.forget_vm(old.id, Durability::Host).await.unwrap();
        assert_eq!(store.vms().await.unwrap(), []);
    }
}
