//! Which runtime serves a VM, and why: pure.
//!
//! ```text
//!   spec ─────────────────┐
//!   the node's network ───┼─▶ select_runtime ─▶ the first that takes it, and
//!   what is here, in the  │                     a clause about each
//!   order of preference ──┘
//! ```

use std::fmt;

use crate::{CreateDeniedReason, RuntimeChoice, RuntimeOffer, VmSpec, admit_runtime};

/// A runtime as the node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeCandidate {
    pub choice: RuntimeChoice,
    pub name: &'static str,
    /// What it can do, or why it is not to be had on this host.
    pub offer: Result<RuntimeOffer, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeSelection {
    pub chosen: Option<RuntimeChoice>,
    /// One for each that came into question, in their order.
    pub verdicts: Vec<RuntimeVerdict>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeVerdict {
    pub name: &'static str,
    pub why: RuntimeWhy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeWhy {
    /// It was asked for, and takes the VM.
    AskedFor,
    /// The first in the node's order that takes it.
    Preferred,
    /// It would take it, and comes after the one that does.
    Later,
    NotHere(String),
    Refuses(CreateDeniedReason),
}

/// Of several that are named, or may be chosen from, the first that takes it.
/// `user_network` is whether the VM's card would be on the VMM's own network.
pub fn select_runtime(
    spec: &VmSpec,
    user_network: bool,
    candidates: &[RuntimeCandidate],
) -> RuntimeSelection {
    let is_free = spec.runtime == RuntimeChoice::Auto;
    let mut chosen = None;
    let in_question =
        candidates.iter().filter(|candidate| is_free || candidate.choice == spec.runtime);
    let verdicts = in_question
        .map(|RuntimeCandidate { choice, name, offer }| {
            let why = match offer {
                Err(why) => RuntimeWhy::NotHere(why.clone()),
                Ok(offer) => match admit_runtime(spec, *offer, user_network) {
                    Err(denied) => RuntimeWhy::Refuses(denied),
                    Ok(()) if chosen.is_some() => RuntimeWhy::Later,
                    Ok(()) => {
                        chosen = Some(*choice);
                        if is_free { RuntimeWhy::Preferred } else { RuntimeWhy::AskedFor }
                    }
                },
            };
            RuntimeVerdict { name, why }
        })
        .collect();
    RuntimeSelection { chosen, verdicts }
}

/// `krun: not here: inn-krun is not installed`.
impl fmt::Display for RuntimeVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, why } = self;
        match why {
            RuntimeWhy::AskedFor => write!(f, "{name}: it was asked for"),
            RuntimeWhy::Preferred => {
                write!(f, "{name}: the first of runtimes.order that takes such a VM")
            }
            RuntimeWhy::Later => write!(f, "{name}: would take it, and comes later"),
            RuntimeWhy::NotHere(why) => write!(f, "{name}: not to be had here: {why}"),
            RuntimeWhy::Refuses(denied) => write!(f, "{name}: {denied}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use inn_units::Architecture;

    use super::*;
    use crate::admission::tests::spec;
    use crate::{ChannelChoice, Network};

    fn candidates() -> Vec<RuntimeCandidate> {
        let qemu = RuntimeOffer {
            name: "qemu",
            architecture: Architecture::OURS,
            firmware: true,
            serial: true,
            vsock: false,
            user_network: true,
            foreign_networks: false,
        };
        let krun = RuntimeOffer {
            name: "krun",
            architecture: Architecture::OURS,
            firmware: false,
            serial: false,
            vsock: true,
            user_network: false,
            foreign_networks: false,
        };
        vec![
            RuntimeCandidate { choice: RuntimeChoice::Qemu, name: "qemu", offer: Ok(qemu) },
            RuntimeCandidate { choice: RuntimeChoice::Krun, name: "krun", offer: Ok(krun) },
        ]
    }

    fn select(
        change: impl FnOnce(&mut VmSpec),
        user_network: bool,
        candidates: &[RuntimeCandidate],
    ) -> (Option<RuntimeChoice>, Vec<String>) {
        let mut spec = spec();
        spec.network = Network::AllowAll;
        change(&mut spec);
        let RuntimeSelection { chosen, verdicts } = select_runtime(&spec, user_network, candidates);
        (chosen, verdicts.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_first_in_order_that_takes_it_is_chosen() {
        let mut all = candidates();
        let (chosen, why) = select(|_| {}, false, &all);
        assert_eq!(chosen, Some(RuntimeChoice::Qemu));
        assert!(why[0].contains("the first") && why[1].contains("comes later"), "{why:?}");
        all.reverse();
        assert_eq!(select(|_| {}, false, &all).0, Some(RuntimeChoice::Krun));
    }

    #[test]
    fn what_a_vm_needs_comes_before_the_order() {
        let mut all = candidates();
        all.reverse();
        let (chosen, why) = select(|spec| spec.channel = ChannelChoice::Serial, false, &all);
        assert_eq!(chosen, Some(RuntimeChoice::Qemu));
        assert!(why[0].starts_with("krun: ") && why[0].contains("serial"), "{why:?}");
        // On the VMM's own network there is only one that has one.
        let (chosen, why) = select(|_| {}, true, &all);
        assert_eq!(chosen, Some(RuntimeChoice::Qemu));
        assert!(why[0].contains("network"), "{why:?}");
        let (chosen, _) = select(|spec| spec.network = Network::None, true, &all);
        assert_eq!(chosen, Some(RuntimeChoice::Krun));
    }

    #[test]
    fn a_network_that_is_not_the_nodes_is_for_who_has_a_way_to_it() {
        let mut all = candidates();
        let foreign = |spec: &mut VmSpec| {
            spec.network = Network::Foreign("libvirt:default".parse().unwrap());
        };
        let (chosen, why) = select(foreign, false, &all);
        assert_eq!(chosen, None);
        assert!(why[0].contains("no way to libvirt:default"), "{why:?}");
        let libvirt = RuntimeOffer {
            name: "libvirt",
            architecture: Architecture::OURS,
            firmware: true,
            serial: true,
            vsock: false,
            user_network: true,
            foreign_networks: true,
        };
        let choice = RuntimeChoice::Libvirt;
        all.push(RuntimeCandidate { choice, name: "libvirt", offer: Ok(libvirt) });
        for user_network in [false, true] {
            assert_eq!(select(foreign, user_network, &all).0, Some(choice));
        }
    }

    #[test]
    fn who_is_asked_for_is_taken_or_nobody() {
        let mut all = candidates();
        let krun = |spec: &mut VmSpec| spec.runtime = RuntimeChoice::Krun;
        let (chosen, why) = select(krun, false, &all);
        assert_eq!((chosen, why.len()), (Some(RuntimeChoice::Krun), 1));
        assert_eq!(select(krun, true, &all).0, None);
        all[1].offer = Err("inn-krun is not installed".to_owned());
        let (chosen, why) = select(krun, false, &all);
        assert_eq!(chosen, None);
        assert_eq!(why, ["krun: not to be had here: inn-krun is not installed"]);
        // It is nobody's loss where it was not asked for.
        assert_eq!(select(|_| {}, false, &all).0, Some(RuntimeChoice::Qemu));
        assert_eq!(select(|_| {}, false, &[]).0, None);
    }
}
