use proptest::prelude::*;

use super::super::tables;
use super::super::tests::{Turn, everything, map, turns};
use super::*;
use crate::nft::pretend::Pretended;
use crate::nft::{Transaction, plan, plan_touched};

/// In any order: sets that are touched whole come first in a plan of what is
/// touched.
fn sorted(transaction: &Transaction) -> Vec<String> {
    let mut steps: Vec<String> = transaction.steps.iter().map(|step| format!("{step:?}")).collect();
    steps.sort();
    steps
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// However what is declared came to be, the tables are those that it has
    /// from nothing, and what was touched is all that is different.
    #[test]
    fn step_by_step_is_the_same_as_from_nothing(
        rounds in proptest::collection::vec(turns(4), 1..12),
        applied in proptest::collection::vec(any::<bool>(), 12),
    ) {
        let mut desired = Desired::default();
        let mut declared = Declared::default();
        let mut kernel = Pretended::default();
        let mut follows = false;
        for (round, applied) in rounds.iter().zip(applied) {
            for turn in round {
                Turn::apply(*turn, &mut declared);
            }
            desired.follow(&Arc::new(declared.clone()));
            let wanted = tables(&declared);
            prop_assert_eq!(desired.tables(), &wanted);
            // Several changes may come before one is applied.
            if !applied {
                continue;
            }
            let whole = plan(&wanted, &kernel.observed());
            if follows {
                let touched = plan_touched(desired.wanted(), &kernel.observed());
                prop_assert_eq!(sorted(&touched), sorted(&whole));
                kernel.apply(&touched);
            } else {
                kernel.apply(&whole);
            }
            desired.wanted().applied();
            follows = true;
            kernel.is(&wanted);
        }
    }
}

#[test]
fn one_map_more_touches_one_element_of_one_set() {
    let mut desired = Desired::default();
    let mut declared = everything();
    desired.follow(&Arc::new(declared.clone()));
    let before = Pretended::of(desired.tables());
    desired.wanted().applied();
    let listen = inn_domain::network::Listen::Any;
    let transport = inn_domain::network::Transport::Tcp;
    declared.maps.insert(3, map(listen, transport, (4444, 4444), (&["10.77.1.2"], 44)));
    desired.follow(&Arc::new(declared));
    let done = plan_touched(desired.wanted(), &before.observed());
    assert_eq!(done.to_string(), "add 1 elements to inet innkeeper any-tcp4\n");
}

#[test]
fn a_vm_more_touches_no_other_vms_chain() {
    let mut desired = Desired::default();
    let mut declared = everything();
    let last = declared.attachments.pop().unwrap();
    desired.follow(&Arc::new(declared.clone()));
    let before = Pretended::of(desired.tables());
    desired.wanted().applied();
    declared.attachments.push(last.clone());
    desired.follow(&Arc::new(declared));
    let done = plan_touched(desired.wanted(), &before.observed()).to_string();
    for line in done.lines().filter(|line| line.contains(" rule ") || line.contains(" chain ")) {
        assert!(line.contains(&last.vm.to_string()), "{line}");
    }
    assert!(done.contains("add chain"), "{done}");
}
