//! Requests that came with a key of the client's, so that one that is sent
//! again is not carried out again, whatever has become of the agent meanwhile.
//!
//! ```text
//!   not known ──with what it wants of a VM──▶ accepted ──▶ answered ──▶ forgotten
//!       └──────────────────────────────────────────────────▶─┘ a day on, or pushed out
//! ```

use std::time::Duration;

use inn_units::{Digest, VmId};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::error::StoreError;
use crate::records::Durability;
use crate::store::Store;

/// How long a key is known.
pub(crate) const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Of one caller; the oldest are pushed out. A few more before it is looked.
pub(crate) const OF_ONE: i64 = 1_024;

/// Of all callers together: with answers of some KiB each, tens of MiB.
const OF_ALL: i64 = 8_192;

/// The old ones go by so many at a time, or each request would look for them.
pub(crate) const PRUNED: i64 = 64;

/// A request that came with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Whose it is: another's key of the same name is another key.
    pub caller: String,
    /// Method and path, as the router has it.
    pub route: String,
    pub key: String,
    /// Of the whole request.
    pub digest: Digest,
    pub at: Timestamp,
}

/// An answer, as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyAnswer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What is written down with a change that a request wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMark {
    pub record: KeyRecord,
    /// Where what is left of the VM would not do for one.
    pub answer: Option<KeyAnswer>,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKey {
    pub digest: Digest,
    /// The VM that was made or changed.
    pub vm: Option<VmId>,
    /// `None`: it was accepted, and nothing more is known.
    pub answer: Option<KeyAnswer>,
}

impl Store {
    /// What became of the request of this key, as far back as keys are kept.
    pub async fn known_key(&self, asked: KeyRecord) -> Result<Option<KnownKey>, StoreError> {
        let row = self
            .call("look a key up", Durability::Agent, move |c| {
                c.prepare_cached(
                    "SELECT digest, vm_id, status, headers, body FROM request_keys \
                     WHERE caller = ?1 AND route = ?2 AND key = ?3 AND at > ?4",
                )?
                .query_row(
                    params![asked.caller, asked.route, asked.key, oldest(asked.at)],
                    KeyRow::read,
                )
                .optional()
            })
            .await?;
        row.map(KeyRow::into_known).transpose()
    }

    /// Keeps the answer to a request, for who sends it again. It survives the
    /// agent; what it is about was durable before.
    pub async fn keep_answer(&self, mark: KeyMark) -> Result<(), StoreError> {
        self.call("keep an answer", Durability::Agent, move |c| {
            let change = c.unchecked_transaction()?;
            record(&change, &mark, None)?;
            change.commit()
        })
        .await
    }
}

fn oldest(now: Timestamp) -> i64 {
    now.checked_sub(KEPT).unwrap_or(Timestamp::MIN).as_microsecond()
}

/// Within whatever transaction is under way.
pub(crate) fn record(c: &Connection, mark: &KeyMark, vm: Option<VmId>) -> rusqlite::Result<()> {
    let KeyMark { record, answer } = mark;
    // A list of pairs of texts always is JSON.
    let headers = answer
        .as_ref()
        .map(|answer| serde_json::to_string(&answer.headers).unwrap_or_else(|_| "[]".to_owned()));
    let seq: i64 = c
        .prepare_cached(
            "INSERT INTO request_keys (caller, route, key, digest, at, vm_id, status, headers, \
               body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
             ON CONFLICT (caller, route, key) DO UPDATE SET digest = ?4, at = ?5, \
               vm_id = coalesce(?6, vm_id), status = ?7, headers = ?8, body = ?9 \
             RETURNING seq",
        )?
        .query_row(
            params![
                record.caller,
                record.route,
                record.key,
                record.digest.to_string(),
                record.at.as_microsecond(),
                vm.map(|id| id.to_string()),
                answer.as_ref().map(|answer| answer.status),
                headers,
                answer.as_ref().map(|answer| answer.body.as_slice()),
            ],
            |row| row.get(0),
        )?;
    if seq % PRUNED == 0 {
        prune(c, record)?;
    }
    Ok(())
}

fn prune(c: &Connection, newest: &KeyRecord) -> rusqlite::Result<()> {
    c.execute("DELETE FROM request_keys WHERE at <= ?1", [oldest(newest.at)])?;
    c.execute(
        "DELETE FROM request_keys WHERE caller = ?1 AND seq <= \
         (SELECT seq FROM request_keys WHERE caller = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
        params![newest.caller, OF_ONE],
    )?;
    c.execute(
        "DELETE FROM request_keys WHERE seq <= \
         (SELECT seq FROM request_keys ORDER BY seq DESC LIMIT 1 OFFSET ?1)",
        [OF_ALL],
    )?;
    Ok(())
}

struct KeyRow {
    digest: String,
    vm: Option<String>,
    status: Option<u16>,
    headers: Option<String>,
    body: Option<Vec<u8>>,
}

impl KeyRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            digest: row.get(0)?,
            vm: row.get(1)?,
            status: row.get(2)?,
            headers: row.get(3)?,
            body: row.get(4)?,
        })
    }

    fn into_known(self) -> Result<KnownKey, StoreError> {
        let bad = |why: String| StoreError::Row { what: "an Idempotency-Key".to_owned(), why };
        let answer = match (self.status, self.headers, self.body) {
            (Some(status), Some(headers), Some(body)) => Some(KeyAnswer {
                status,
                headers: serde_json::from_str(&headers).map_err(|e| bad(e.to_string()))?,
                body,
            }),
            _ => None,
        };
        Ok(KnownKey {
            digest: self.digest.parse().map_err(|e: inn_units::ParseError| bad(e.to_string()))?,
            vm: self
                .vm
                .map(|id| id.parse())
                .transpose()
                .map_err(|e: inn_units::ParseError| bad(e.to_string()))?,
            answer,
        })
    }
}
