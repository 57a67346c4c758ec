//! firewalld's zone holds our bridges, where the configuration asks for that.
//!
//! ```text
//!   bridges that are declared ─┐
//!   those that it was given ───┼─▶ recorded ─▶ asked for ─▶ recorded
//!   its tables drop ours ──────┘
//! ```
//!
//! It is recorded before it is asked for: an agent that is told otherwise takes
//! back what an agent has put there, and nothing that its owner has.

use std::time::Duration;

use inn_domain::network::{Declared, DeclaredNetwork};
use inn_fail_point::{Point, fail_point};
use inn_host::process::{Program, RunError, run_blocking};
use inn_net::firewalld::{Ask, Kept, ZoneError, keep_in_zone};
use inn_store::StoreError;
use inn_units::InterfaceName;
use tokio::task::spawn_blocking;

use super::mode::ForeignChoice;
use crate::error::Chain;
use crate::node::Node;

/// The bridges that may be there because of us, with spaces between.
const RECORD: &str = "firewalld_bridges";

/// Its program is Python, and its daemon may be at a reload.
const PATIENCE: Duration = Duration::from_secs(30);

/// Owned by the networks' task.
#[derive(Debug, Default)]
pub(super) struct Zone {
    /// None, until it was read in this life.
    recorded: Option<Vec<InterfaceName>>,
    /// What it was last asked for.
    asked: Option<Vec<InterfaceName>>,
    /// Why it does not hold them, a sentence each.
    pub(super) troubles: Vec<String>,
    /// It did not answer when it was last asked.
    pub(super) silent: bool,
}

/// Whether firewalld is worth asking again, though nothing of ours is new.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Others' tables have just been looked at.
    pub(super) anew: bool,
    /// Its own drop what is ours.
    pub(super) shut: bool,
}

struct FirewallCmd;

impl Ask for FirewallCmd {
    fn ask(&self, arguments: &[&str]) -> Result<String, String> {
        match run_blocking(Program::FIREWALL_CMD, arguments, PATIENCE) {
            Ok(output) => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            Err(RunError::Failed { stderr, .. }) => Err(stderr),
            Err(error) => Err(Chain(&error).to_string()),
        }
    }
}

impl Zone {
    /// What was changed, in words.
    pub(super) async fn keep(
        &mut self,
        node: &Node,
        declared: &Declared,
        seen: Seen,
    ) -> Result<Vec<String>, StoreError> {
        let chosen = node.networks.foreign == ForeignChoice::Firewalld;
        let bridges = declared.networks.iter().filter(|_| chosen).map(DeclaredNetwork::bridge);
        let wanted: Vec<InterfaceName> = bridges.collect();
        let before = match &self.recorded {
            Some(recorded) => recorded.clone(),
            None => self.recorded.insert(read(node).await?).clone(),
        };
        let again = seen.anew && (seen.shut || !self.troubles.is_empty());
        let nothing = wanted.is_empty() && before.is_empty();
        if nothing && !chosen || self.asked.as_ref() == Some(&wanted) && !again {
            return Ok(Vec::new());
        }
        let mut all = before.clone();
        all.extend(wanted.iter().filter(|bridge| !before.contains(bridge)).cloned());
        if self.record(node, all).await? {
            fail_point(Point::ZoneRecorded);
        }
        let asked = wanted.clone();
        let asking = spawn_blocking(move || keep_in_zone(&FirewallCmd, &asked, &before));
        let kept = asking.await.unwrap_or_else(|error| {
            Err(ZoneError::NotThere { said: format!("asking has panicked: {error}") })
        });
        self.asked = Some(wanted.clone());
        self.silent = kept.is_err();
        match kept {
            Ok(Kept { done, refused }) => {
                if !done.is_empty() {
                    fail_point(Point::ZoneAsked);
                }
                self.troubles = refused.iter().map(ToString::to_string).collect();
                if refused.is_empty() {
                    self.record(node, wanted).await?;
                }
                Ok(done)
            }
            Err(error) => {
                // Where it does not run, nothing is in its zones that is not
                // there for good, and nobody who has not chosen it is told.
                let gone = !chosen && !seen.shut;
                self.troubles = if gone { Vec::new() } else { vec![error.to_string()] };
                if gone {
                    self.record(node, Vec::new()).await?;
                }
                Ok(Vec::new())
            }
        }
    }

    /// Whether that is news.
    async fn record(&mut self, node: &Node, all: Vec<InterfaceName>) -> Result<bool, StoreError> {
        let is_news = self.recorded.as_ref() != Some(&all);
        if is_news {
            let names: Vec<&str> = all.iter().map(InterfaceName::as_str).collect();
            node.store.set_node_value(RECORD, names.join(" ")).await?;
            self.recorded = Some(all);
        }
        Ok(is_news)
    }
}

async fn read(node: &Node) -> Result<Vec<InterfaceName>, StoreError> {
    let text = node.store.node_value(RECORD).await?.unwrap_or_default();
    Ok(text.split_whitespace().filter_map(|name| name.parse().ok()).collect())
}
