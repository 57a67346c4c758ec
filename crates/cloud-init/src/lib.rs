//! What cloud-init in a full VM is told, and what it tells.
//!
//! ```text
//!   SeedRequest ─┬─ ours: who, keys, packages, the agent's installation ─┐
//!                └─ user data of the user's own ─────────────────────────┴─▶ merged
//!                                                                              │
//!   disk "cidata": user-data, meta-data, network-config ◀── iso ◀── Seed ◀─────┘
//!   disk "INN-GUEST": inn-guest, its unit, install ◀─────── iso
//!
//!   status.json, result.json of the guest ──▶ Progress
//! ```
//!
//! All of it is pure: bytes and text in, bytes and text out, the same each
//! time. The formats are cloud-init's: its documentation's "NoCloud", "User
//! data formats" and "Merging user data sections", network configuration
//! version 2.

mod iso;
mod mime;
mod progress;
mod seed;
mod yaml;

pub use progress::{MAX_ERRORS, Progress, clean};
pub use seed::{
    AGENT_LABEL, AgentDisk, MAX_USER_DATA, NetworkSeed, SEED_LABEL, Seed, SeedRequest,
    UserDataError, check_user_data,
};
