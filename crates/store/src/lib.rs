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
//! more); stored rows are types of their own (`row`), converted in `convert`.

mod connection;
mod convert;
mod error;
mod records;
mod row;
mod store;

pub use error::StoreError;
pub use records::{
    Durability, EndRecord, FailureRecord, MachineRecord, ObservedRecord, ProbeKey, ProbeRecord,
    VmRecord, WorkloadRecord,
};
pub use store::Store;
