//! What has happened, in order, as far back as is kept.
//!
//! A batch is one transaction that survives the agent (`Durability::Agent`). A
//! crash of the host may take the last ones; so that no number is told twice
//! for two events, the first start after one leaves [`SKIPPED`] numbers out.

use std::sync::Arc;

use inn_fail_point::{Point, fail_point};
use inn_units::{EventSeq, VmId};
use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use crate::error::StoreError;
use crate::records::Durability;
use crate::store::{Store, integer, unsigned};

/// More than a crash of the host can take: a checkpoint syncs what came before
/// it, and comes after 1,000 pages (sqlite.org/wal.html) of some 20 events.
const SKIPPED: i64 = 100_000;

/// The oldest go by so many at a time, or each batch would look for them.
const PRUNED: u64 = 512;

const BOOT: &str = "events_host_boot";

/// One event, but for its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// To the microsecond.
    pub at: Timestamp,
    pub kind: String,
    pub vm_id: Option<VmId>,
    pub vm_name: Option<String>,
    pub actor: Option<String>,
    pub message: String,
    /// A JSON object.
    pub detail: String,
}

/// Which events, of those after `after`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    pub after: EventSeq,
    pub since: Option<Timestamp>,
    /// A VM by its id or by the name that it had.
    pub vm: Option<String>,
    /// Only of these VMs; `None` is no limit.
    pub only_vms: Option<Vec<VmId>>,
    /// Any if empty.
    pub kinds: Vec<String>,
}

/// What is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventWindow {
    /// The oldest, if there is any.
    pub first: Option<EventSeq>,
    /// The last that was ever written.
    pub last: EventSeq,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventPage {
    pub events: Vec<(EventSeq, EventRecord)>,
    /// Where to go on: nothing up to here is asked for and not in `events`.
    pub scanned_to: EventSeq,
    pub window: EventWindow,
}

impl Store {
    /// Before the first event of an agent's life is written.
    pub async fn begin_events(&self, host_boot: String) -> Result<EventWindow, StoreError> {
        let step = "prepare the events";
        let known: Option<String> = self.node_value(BOOT).await?;
        if known.as_deref() != Some(&host_boot) {
            // Numbers are left out durably before any of them is told.
            self.call(step, Durability::Host, move |c| {
                let change = c.unchecked_transaction()?;
                change.execute(
                    "UPDATE sqlite_sequence SET seq = seq + ?1 WHERE name = 'events'",
                    [SKIPPED],
                )?;
                change.execute(
                    "INSERT INTO node (key, value) VALUES (?1, ?2) \
                     ON CONFLICT (key) DO UPDATE SET value = ?2",
                    [BOOT, &host_boot],
                )?;
                change.commit()
            })
            .await?;
        }
        self.call(step, Durability::Agent, window).await
    }

    /// Writes a batch, drops what is beyond the newest `keep` or somewhat
    /// more, and says the last one's number.
    pub async fn append_events(
        &self,
        batch: Arc<Vec<EventRecord>>,
        keep: u64,
    ) -> Result<EventSeq, StoreError> {
        self.call("write events", Durability::Agent, move |c| {
            let change = c.unchecked_transaction()?;
            let before = window(&change)?.last;
            let mut insert = change.prepare_cached(
                "INSERT INTO events (at, kind, vm_id, vm_name, actor, message, detail) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            for event in batch.iter() {
                insert.execute(params![
                    event.at.as_microsecond(),
                    event.kind,
                    event.vm_id.map(|id| id.to_string()),
                    event.vm_name,
                    event.actor,
                    event.message,
                    event.detail,
                ])?;
            }
            drop(insert);
            let last = EventSeq(unsigned(change.last_insert_rowid()));
            if before.0 / PRUNED != last.0 / PRUNED {
                change.execute(
                    "DELETE FROM events WHERE seq <= \
                     (SELECT seq FROM events ORDER BY seq DESC LIMIT 1 OFFSET ?1)",
                    [integer(keep)],
                )?;
                fail_point(Point::EventsPruned);
            }
            change.commit()?;
            Ok(last)
        })
        .await
    }

    /// The oldest `limit` events that the query is about.
    pub async fn events(&self, query: EventQuery, limit: u32) -> Result<EventPage, StoreError> {
        let (page, rows) = self
            .call("read events", Durability::Agent, move |c| {
                let window = window(c)?;
                let (conditions, values) = conditions(&query);
                let mut statement = c.prepare_cached(&format!(
                    "SELECT seq, at, kind, vm_id, vm_name, actor, message, detail FROM events \
                     WHERE {conditions} ORDER BY seq LIMIT {limit}"
                ))?;
                let rows = statement
                    .query_map(params_from_iter(values), EventRow::read)?
                    .collect::<Result<Vec<_>, _>>()?;
                let full = rows.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
                let scanned_to = match rows.last() {
                    Some(row) if full => EventSeq(unsigned(row.seq)),
                    _ => window.last.max(query.after),
                };
                Ok((EventPage { events: Vec::new(), scanned_to, window }, rows))
            })
            .await?;
        let events = rows.into_iter().map(EventRow::into_record).collect::<Result<_, _>>()?;
        Ok(EventPage { events, ..page })
    }

    /// After which number the query's last `count` events are.
    pub async fn events_tail(&self, query: EventQuery, count: u32) -> Result<EventSeq, StoreError> {
        self.call("read events", Durability::Agent, move |c| {
            if count == 0 {
                return Ok(window(c)?.last.max(query.after));
            }
            let (conditions, values) = conditions(&query);
            let sql = format!(
                "SELECT seq FROM events WHERE {conditions} ORDER BY seq DESC LIMIT 1 OFFSET {}",
                count - 1
            );
            let first: Option<i64> = c
                .prepare_cached(&sql)?
                .query_row(params_from_iter(values), |row| row.get(0))
                .optional()?;
            Ok(first.map_or(query.after, |seq| EventSeq(unsigned(seq - 1))))
        })
        .await
    }
}

fn window(c: &Connection) -> rusqlite::Result<EventWindow> {
    let first: Option<i64> =
        c.prepare_cached("SELECT min(seq) FROM events")?.query_row([], |row| row.get(0))?;
    let last: Option<i64> = c
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'events'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(EventWindow {
        first: first.map(|seq| EventSeq(unsigned(seq))),
        last: EventSeq(last.map_or(0, unsigned)),
    })
}

fn conditions(query: &EventQuery) -> (String, Vec<Value>) {
    let mut values = vec![Value::Integer(integer(query.after.0))];
    let mut sql = "seq > ?".to_owned();
    if let Some(since) = query.since {
        sql.push_str(" AND at >= ?");
        values.push(Value::Integer(since.as_microsecond()));
    }
    if let Some(vm) = &query.vm {
        sql.push_str(" AND (vm_id = ? OR vm_name = ?)");
        values.extend([Value::Text(vm.clone()), Value::Text(vm.clone())]);
    }
    let mut one_of = |column: &str, texts: Vec<String>| {
        let marks = vec!["?"; texts.len()].join(", ");
        sql.push_str(&format!(" AND {column} IN ({marks})"));
        values.extend(texts.into_iter().map(Value::Text));
    };
    if let Some(ids) = &query.only_vms {
        one_of("vm_id", ids.iter().map(VmId::to_string).collect());
    }
    if !query.kinds.is_empty() {
        one_of("kind", query.kinds.clone());
    }
    (sql, values)
}

struct EventRow {
    seq: i64,
    at: i64,
    kind: String,
    vm_id: Option<String>,
    vm_name: Option<String>,
    actor: Option<String>,
    message: String,
    detail: String,
}

impl EventRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            at: row.get(1)?,
            kind: row.get(2)?,
            vm_id: row.get(3)?,
            vm_name: row.get(4)?,
            actor: row.get(5)?,
            message: row.get(6)?,
            detail: row.get(7)?,
        })
    }

    fn into_record(self) -> Result<(EventSeq, EventRecord), StoreError> {
        let what = format!("the event {}", self.seq);
        let bad = |why: String| StoreError::Row { what: what.clone(), why };
        let Self { kind, vm_name, actor, message, detail, .. } = self;
        let record = EventRecord {
            at: Timestamp::from_microsecond(self.at).map_err(|e| bad(e.to_string()))?,
            vm_id: self
                .vm_id
                .map(|id| id.parse())
                .transpose()
                .map_err(|e: inn_units::ParseError| bad(e.to_string()))?,
            kind,
            vm_name,
            actor,
            message,
            detail,
        };
        Ok((EventSeq(unsigned(self.seq)), record))
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
