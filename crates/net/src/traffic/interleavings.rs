use inn_domain::network::{Declared, Listen, NetworkKind, Policy, Transport};

use super::*;
use crate::table::tests::{card, map, network};

const ROUNDS: u64 = 200;

/// The same numbers in every run (Knuth, MMIX).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u16) -> u16 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u16::try_from((self.0 >> 33) % u64::from(limit)).unwrap()
    }
}

#[test]
fn whatever_happens_in_between_kernel_and_declared_agree() {
    let name = "whatever_happens_in_between_kernel_and_declared_agree";
    let Some(namespace) = Namespace::new(name) else { return };
    let begin =
        || (namespace.run(|| Kernel::open(Instance::default()).unwrap()), Desired::default());
    let (mut kernel, mut desired) = begin();
    let mut declared = Declared {
        networks: vec![network(1, NetworkKind::Nat)],
        attachments: vec![card(1, 2, Policy::AllowAll)],
        ..Declared::default()
    };
    let mut dice = Dice(6);
    for round in 0..ROUNDS {
        for _ in 0..=dice.below(4) {
            let vm = dice.below(6) + 2;
            let at = u8::try_from(vm).unwrap();
            match dice.below(9) {
                0..=2 => {
                    let port = 1000 + dice.below(30);
                    declared.maps.retain(|map| map.map.ports.first != port);
                    let to = format!("10.77.1.{vm}");
                    let to = (&[&*to][..], 80);
                    declared.maps.push(map(Listen::Any, Transport::Tcp, (port, port), to));
                }
                3 if !declared.maps.is_empty() => {
                    let count = u16::try_from(declared.maps.len()).unwrap();
                    declared.maps.remove(usize::from(dice.below(count)));
                }
                // A VM comes, goes, or is under another policy.
                4 => {
                    let gone = card(1, at, Policy::AllowAll).vm;
                    declared.attachments.retain(|card| card.vm != gone);
                }
                5 => {
                    let policy = if dice.below(2) == 0 { Policy::None } else { Policy::AllowAll };
                    let new = card(1, at, policy);
                    declared.attachments.retain(|card| card.vm != new.vm);
                    declared.attachments.push(new);
                }
                // The agent ends, and its next life knows nothing.
                6 => (kernel, desired) = begin(),
                7 => namespace.nft("flush ruleset"),
                _ => {
                    let argv = ["nft", "flush", "chain", "inet", "innkeeper", "forward"];
                    // It may not be there.
                    drop(namespace.try_program(&argv, "").unwrap());
                }
            }
        }
        desired.follow(&Arc::new(declared.clone()));
        kernel.follow(desired.wanted()).unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        // What the kernel says itself, and not our memory of it.
        kernel.forget();
        let left = crate::nft::plan(&table::tables(&declared), kernel.read().unwrap());
        assert!(left.is_empty(), "round {round}: {left}");
    }
}
