//! The resume receipt: what a guest has confirmed before anybody was let in.

use std::time::Duration;

use inn_store::ReceiptRecord;
use inn_units::{SnapshotId, VmId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::guest::{ResumeStep, ResumeStepKind, StepResult};
use crate::node_key::{NodeKey, hex};

/// What is signed, as JSON in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Receipt {
    pub(crate) vm: String,
    pub(crate) vm_id: VmId,
    /// What it began from, for people.
    pub(crate) origin: String,
    pub(crate) snapshot: SnapshotId,
    pub(crate) node: String,
    /// Of the guest's kernel: a clone has its parent's.
    pub(crate) boot_id: String,
    /// Of this machine alone, and anew each time that one goes on.
    pub(crate) boot_session: String,
    pub(crate) confirmed_at: Timestamp,
    /// From the question to the guest's answer.
    pub(crate) took_us: u64,
    /// By how much the guest's clock is behind the host's, at the most: it is
    /// told the time until it takes it in time.
    #[serde(default)]
    pub(crate) clock_lag_us: u64,
    pub(crate) steps: Vec<ReceiptStep>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReceiptStep {
    pub(crate) name: String,
    /// `done` or `skipped`: with one that failed there is no receipt.
    pub(crate) result: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    pub(crate) took_us: u64,
}

pub(super) const fn step_name(kind: ResumeStepKind) -> &'static str {
    match kind {
        ResumeStepKind::Entropy => "entropy",
        ResumeStepKind::Clock => "clock",
        ResumeStepKind::Hostname => "hostname",
        ResumeStepKind::MachineId => "machine-id",
        ResumeStepKind::Network => "network",
        ResumeStepKind::Mounts => "mounts",
        ResumeStepKind::Secrets => "secrets",
        ResumeStepKind::Hooks => "hooks",
    }
}

impl ReceiptStep {
    pub(super) fn done(name: &str, took: Duration) -> Self {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        Self { name: name.to_owned(), result: "done".to_owned(), why: None, took_us }
    }

    pub(super) fn skipped(name: &str, why: &str) -> Self {
        let why = Some(why.to_owned());
        Self { name: name.to_owned(), result: "skipped".to_owned(), why, took_us: 0 }
    }

    pub(super) fn of(step: &ResumeStep) -> Self {
        let done = Self::done(step_name(step.kind), step.took);
        match &step.result {
            StepResult::Done => done,
            StepResult::Skipped(why) => {
                Self { result: "skipped".to_owned(), why: Some(why.clone()), ..done }
            }
            StepResult::Failed(what) => {
                Self { result: "failed".to_owned(), why: Some(what.clone()), ..done }
            }
        }
    }
}

impl Receipt {
    pub(super) fn signed(&self, key: &NodeKey) -> ReceiptRecord {
        let statement = serde_json::to_string(self).expect("strings and numbers");
        let signature = hex(&key.sign(statement.as_bytes()));
        ReceiptRecord { statement, signature, key: key.public_hex() }
    }

    pub(crate) fn read(record: &ReceiptRecord) -> Option<Self> {
        serde_json::from_str(&record.statement).ok()
    }
}
