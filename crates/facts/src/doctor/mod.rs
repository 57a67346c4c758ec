//! What a node's features need, and whether it is there: pure, but for `mend`.
//!
//! ```text
//!   HostFacts ─┐
//!   Sight ─────┴─▶ examine ─▶ findings: state, consequence, command, fix
//!                                                                      └─▶ mend
//! ```
//!
//! A check is a function of what was seen, in the file of its matter. The facts
//! are the host's; [`Sight`] is what somebody who would run VMs has seen beside
//! them. Whatever is not well says what mends it (`remedy`).

mod boot_options;
mod host;
mod mend;
mod network;
mod packages;
mod place;
mod remedy;
mod runtimes;

#[cfg(test)]
mod tests;

use inn_api::{Examination, Finding, FindingState, Fix, HostFacts};
use jiff::Timestamp;

pub use mend::{Run, mend};
pub use network::FirewallSight;
pub use place::{DirectorySight, PortSight};
use remedy::Remedy;

/// What is to be known beside the host's facts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    pub is_root: bool,
    /// Empty where it has none.
    pub user: String,
    pub by_agent: bool,
    /// In the order of preference.
    pub runtimes: Vec<RuntimeSight>,
    /// What microVMs boot, or why there is nothing.
    pub kernel: Option<Result<String, String>>,
    pub data_dir: Option<DirectorySight>,
    pub port: Option<PortSight>,
    /// Of others, that drop what is VMs'; not where nobody has looked.
    pub firewalls: Option<Vec<FirewallSight>>,
    /// Whether there is a group `innkeeper`.
    pub has_group: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeSight {
    pub name: String,
    /// VMs that ask for none may have it.
    pub is_chosen: bool,
    /// What it is, or why it is not to be had.
    pub standing: Result<String, String>,
}

pub fn examine(at: Timestamp, facts: &HostFacts, sight: &Sight) -> Examination {
    let mut findings = Vec::new();
    runtimes::check(facts, sight, &mut findings);
    network::check(facts, sight, &mut findings);
    host::check(facts, sight, &mut findings);
    place::check(facts, sight, &mut findings);
    let healthy =
        findings.iter().all(|finding| !finding.needed || finding.state == FindingState::Ok);
    Examination { at, by_agent: sight.by_agent, healthy, findings }
}

fn ok(check: &str, found: impl Into<String>) -> Finding {
    Finding {
        check: check.to_owned(),
        state: FindingState::Ok,
        needed: false,
        found: found.into(),
        consequence: None,
        command: None,
        instruction: None,
        fix: None,
    }
}

fn degraded(check: &str, found: impl Into<String>, consequence: &str) -> Finding {
    let consequence = Some(consequence.to_owned());
    Finding { state: FindingState::Degraded, consequence, ..ok(check, found) }
}

fn missing(check: &str, found: impl Into<String>, consequence: &str) -> Finding {
    Finding { state: FindingState::Missing, ..degraded(check, found, consequence) }
}

/// What is mended by a module that is on disk.
fn load(finding: Finding, module: &str) -> Finding {
    let fix = Some(Fix::LoadModule { module: module.to_owned() });
    Finding { fix, ..Remedy::command(format!("modprobe {module}")).of(finding) }
}
