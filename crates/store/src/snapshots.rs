use inn_domain::VmSpec;
use inn_units::{SnapshotId, SnapshotName};
use jiff::Timestamp;
use rusqlite::params;

use crate::Store;
use crate::error::StoreError;
use crate::records::Durability;
use crate::row::StoredSpec;
use crate::store::{is_unique, json, parse};

/// A snapshot whose files are all there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    pub id: SnapshotId,
    pub name: SnapshotName,
    /// As it lies beside the files.
    pub manifest: String,
    pub created_at: Timestamp,
}

/// A spec as the state database has it, for files that lie elsewhere.
pub fn spec_to_text(spec: &VmSpec) -> Result<String, StoreError> {
    json("a VM's spec", &StoredSpec::from(spec))
}

pub fn spec_from_text(text: &str) -> Result<VmSpec, StoreError> {
    let what = "a VM's spec";
    let stored: StoredSpec = parse(what, text)?;
    stored.into_spec().map_err(|why| StoreError::Row { what: what.to_owned(), why })
}

impl Store {
    /// All, in the order of creation.
    pub async fn snapshots(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        let rows: Vec<(String, String, String, String)> = self
            .call("read the snapshots", Durability::Agent, |c| {
                c.prepare(
                    "SELECT id, name, manifest, created_at FROM snapshots ORDER BY created_at, id",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
                .collect()
            })
            .await?;
        let records = rows.into_iter().map(|(id, name, manifest, created_at)| {
            let bad = |why: String| StoreError::Row { what: format!("the snapshot {id}"), why };
            Ok(SnapshotRecord {
                id: id.parse::<SnapshotId>().map_err(|e| bad(e.to_string()))?,
                name: name.parse::<SnapshotName>().map_err(|e| bad(e.to_string()))?,
                created_at: created_at.parse::<Timestamp>().map_err(|e| bad(e.to_string()))?,
                manifest,
            })
        });
        records.collect()
    }

    /// Durable once this returns, as its files have to be before.
    pub async fn insert_snapshot(&self, record: SnapshotRecord) -> Result<(), StoreError> {
        self.call("insert a snapshot", Durability::Host, move |c| {
            c.execute(
                "INSERT INTO snapshots (id, name, manifest, created_at) VALUES (?1, ?2, ?3, ?4)",
                params![
                    record.id.to_string(),
                    record.name.as_str(),
                    record.manifest,
                    record.created_at.to_string(),
                ],
            )
        })
        .await
        .map_err(|error| match error {
            StoreError::Sql { source, .. } if is_unique(&source) => StoreError::NameTaken,
            error => error,
        })?;
        Ok(())
    }

    /// Before its files go: without its record they are nobody's.
    pub async fn forget_snapshot(&self, id: SnapshotId) -> Result<(), StoreError> {
        self.call_from_reserve("forget a snapshot", Durability::Host, move |c| {
            c.execute("DELETE FROM snapshots WHERE id = ?1", [id.to_string()])
        })
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::record;

    fn snapshot(n: u8) -> SnapshotRecord {
        SnapshotRecord {
            id: SnapshotId::from_bytes([n; 8]),
            name: format!("golden-{n}").parse().unwrap(),
            manifest: "{}".to_owned(),
            created_at: Timestamp::from_second(n.into()).unwrap(),
        }
    }

    #[tokio::test]
    async fn they_are_kept_by_name_until_they_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.insert_snapshot(snapshot(1)).await.unwrap();
        store.insert_snapshot(snapshot(2)).await.unwrap();
        let again = SnapshotRecord { id: SnapshotId::from_bytes([3; 8]), ..snapshot(1) };
        assert!(matches!(store.insert_snapshot(again).await, Err(StoreError::NameTaken)));
        assert_eq!(store.snapshots().await.unwrap(), [snapshot(1), snapshot(2)]);
        store.forget_snapshot(snapshot(1).id).await.unwrap();
        assert_eq!(store.snapshots().await.unwrap(), [snapshot(2)]);
    }

    #[test]
    fn a_spec_is_the_same_as_text() {
        let spec = record(1).spec;
        assert_eq!(spec_from_text(&spec_to_text(&spec).unwrap()).unwrap(), spec);
    }
}
