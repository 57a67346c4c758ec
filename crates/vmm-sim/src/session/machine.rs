//! What a simulated guest lets itself be changed in: what needs no disk and
//! no network to be remembered.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use inn_guest_proto::wire::{
    Address, Done, FailureKind, Frozen, Network, NetworkApplied, SshKeys, end, request,
};
use tokio::time::Instant;

use super::failure;

/// Keys that one user may have.
const MAX_KEYS: usize = 1000;

/// Linux's HOST_NAME_MAX.
const MAX_HOSTNAME: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Settings {
    hostname: String,
    /// The guest's clock, as it was set, and when.
    clock: Option<(Duration, Instant)>,
    frozen_until: Option<Instant>,
    /// Frozen by a host that has not asked since.
    frozen: bool,
    keys: BTreeMap<String, Vec<String>>,
    /// Of its card, as it was told.
    addresses: Vec<Address>,
}

impl Settings {
    pub(crate) fn hostname(&self, number: u64) -> String {
        if self.hostname.is_empty() { format!("sim-{number}") } else { self.hostname.clone() }
    }

    pub(crate) fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    pub(crate) fn set_network(&mut self, network: &Network) {
        let address = |ip: &Bytes, prefix| Address { ip: ip.clone(), prefix };
        self.addresses = vec![address(&network.address, network.prefix)];
        if !network.address6.is_empty() {
            self.addresses.push(address(&network.address6, network.prefix6));
        }
    }

    pub(crate) fn set_hostname(&mut self, name: &str) -> bool {
        let fits = (1..=MAX_HOSTNAME).contains(&name.len());
        if fits {
            name.clone_into(&mut self.hostname);
        }
        fits
    }

    pub(crate) fn set_clock(&mut self, unix_ns: u64, now: Instant) {
        self.clock = Some((Duration::from_nanos(unix_ns), now));
    }

    /// Since the epoch.
    pub(crate) fn clock(&self, now: Instant) -> Duration {
        match self.clock {
            Some((set, at)) => set + now.saturating_duration_since(at),
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// Not any more once the dead man's time is up.
    pub(crate) fn is_frozen(&self, now: Instant) -> bool {
        self.frozen && self.frozen_until.is_some_and(|until| now < until)
    }

    /// `None` is a request of another kind.
    pub(crate) fn change(&mut self, kind: &request::Kind, now: Instant) -> Option<end::Outcome> {
        use request::Kind;
        let done = end::Outcome::Done(Done {});
        Some(match kind {
            Kind::SetHostname(request) if self.set_hostname(&request.hostname) => done,
            Kind::SetHostname(_) => failure("take a hostname of that length", FailureKind::Invalid),
            Kind::SetClock(request) => {
                self.set_clock(request.unix_ns, now);
                done
            }
            Kind::ApplyNetwork(request) => {
                let cards = request.setup.iter().flat_map(|setup| &setup.interfaces);
                let addresses: Vec<Address> =
                    cards.flat_map(|card| card.addresses.clone()).collect();
                // It has nobody who would ask by DHCP.
                if addresses.is_empty() {
                    return None;
                }
                self.addresses = addresses;
                end::Outcome::NetworkApplied(NetworkApplied::default())
            }
            Kind::ConfirmNetwork(_) => done,
            Kind::SetPassword(request) if request.user == "root" => done,
            Kind::SetPassword(_) => failure("find the user", FailureKind::NotFound),
            Kind::Freeze(_) if self.is_frozen(now) => {
                failure("freeze what is frozen", FailureKind::AlreadyExists)
            }
            Kind::Freeze(request) => {
                self.frozen = true;
                self.frozen_until =
                    now.checked_add(Duration::from_millis(request.dead_man_ms.into()));
                end::Outcome::Frozen(root(false))
            }
            Kind::Thaw(_) => {
                let expired = self.frozen && !self.is_frozen(now);
                let was_frozen = std::mem::take(&mut self.frozen);
                end::Outcome::Frozen(if was_frozen { root(expired) } else { Frozen::default() })
            }
            Kind::GetSshKeys(request) => end::Outcome::SshKeys(SshKeys {
                keys: self.keys.get(&request.user).cloned().unwrap_or_default(),
            }),
            Kind::SetSshKeys(request) => {
                let kept = self.keys.entry(request.user.clone()).or_default();
                if request.replace {
                    kept.clear();
                }
                for key in &request.keys {
                    if kept.len() < MAX_KEYS && !kept.contains(key) {
                        kept.push(key.clone());
                    }
                }
                done
            }
            _ => return None,
        })
    }
}

fn root(expired: bool) -> Frozen {
    Frozen { mounts: vec!["/".to_owned()], expired }
}

#[cfg(test)]
mod tests {
    use inn_guest_proto::wire::{Freeze, GetSshKeys, SetClock, SetSshKeys, Thaw};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_frozen_guest_thaws_by_itself_and_says_so() {
        let start = Instant::now();
        let mut settings = Settings::default();
        let freeze = request::Kind::Freeze(Freeze { dead_man_ms: 1000, mounts: vec![] });
        let thaw = request::Kind::Thaw(Thaw {});
        assert_eq!(settings.change(&freeze, start), Some(end::Outcome::Frozen(root(false))));
        assert!(settings.is_frozen(start + Duration::from_millis(999)));
        assert_eq!(settings.change(&thaw, start), Some(end::Outcome::Frozen(root(false))));
        assert!(!settings.is_frozen(start));
        settings.change(&freeze, start);
        let later = start + Duration::from_secs(1);
        assert!(!settings.is_frozen(later));
        assert_eq!(settings.change(&thaw, later), Some(end::Outcome::Frozen(root(true))));
        let nothing = Some(end::Outcome::Frozen(Frozen::default()));
        assert_eq!(settings.change(&thaw, later), nothing);
    }

    #[tokio::test(start_paused = true)]
    async fn clock_and_keys_are_remembered() {
        let start = Instant::now();
        let mut settings = Settings::default();
        let set = SetClock { unix_ns: 1_000_000_000 };
        settings.change(&request::Kind::SetClock(set), start);
        assert_eq!(settings.clock(start + Duration::from_secs(2)), Duration::from_secs(3));
        let set = |keys: &[&str], replace| {
            let keys = keys.iter().map(|key| (*key).to_owned()).collect();
            request::Kind::SetSshKeys(SetSshKeys { user: "root".into(), keys, replace })
        };
        let get = request::Kind::GetSshKeys(GetSshKeys { user: "root".into() });
        settings.change(&set(&["a", "b"], false), start);
        settings.change(&set(&["b", "c"], false), start);
        let keys = ["a", "b", "c"].map(str::to_owned).to_vec();
        assert_eq!(settings.change(&get, start), Some(end::Outcome::SshKeys(SshKeys { keys })));
        settings.change(&set(&["d"], true), start);
        let keys = vec!["d".to_owned()];
        assert_eq!(settings.change(&get, start), Some(end::Outcome::SshKeys(SshKeys { keys })));
    }
}
