//! The agent's durable state: one SQLite file in the data directory.
//!
//! ```text
//!   Store (clone) ──bounded mpsc──▶ writer thread ──▶ state.db (WAL)
//! ```
//!
//! Invariants: one thread holds the one connection, so nothing ever waits for
//! a lock; what is *desired* is on the disk before a call returns
//! (`synchronous=FULL`), what is *observed* is in the operating system's hands
//! (`NORMAL`: it survives `kill -9`, and what dies with the host needs no
//! more); before an upgrade rewrites the schema the state is copied to
//! `state.db.before-N`; stored rows are types of their own (`row`), converted in `convert`.

mod backup;
mod connection;
mod convert;
mod error;
mod events;
mod keys;
mod network_rows;
mod networks;
mod records;
mod reserve;
mod row;
mod snapshots;
mod store;
mod successors;
mod tokens;

pub use connection::LATEST;
pub use error::{DamagedState, NewerState, StoreError};
pub use events::{EventPage, EventQuery, EventRecord, EventWindow};
pub use keys::{KeyAnswer, KeyMark, KeyRecord, KnownKey};
pub use networks::{LeaseRecord, NetworkRecord, VmParts};
pub use records::{
    BackoffRecord, BootRecord, BootRecords, CloudInitRecord, CloudInitState, Durability, EndRecord,
    FailureRecord, MachineRecord, ObservedRecord, ProbeKey, ProbeRecord, ReceiptRecord, TtlRecord,
    VmRecord, WorkloadRecord,
};
pub use snapshots::{SnapshotRecord, spec_from_text, spec_to_text};
pub use store::Store;
pub use tokens::TokenRecord;
