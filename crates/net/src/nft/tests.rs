use std::sync::Arc;

use inn_domain::network::{Declared, Instance, Policy};

use super::*;
use crate::namespace::Namespace;
use crate::table::{Desired, tables, tests as sample};

fn kernel(namespace: &Namespace) -> Kernel {
    namespace.run(|| Kernel::open(Instance::default()).unwrap())
}

/// Our tables as nft lists them, without what was counted.
fn listed(namespace: &Namespace) -> String {
    let list = |family| namespace.program(&["nft", "-s", "list", "table", family, "innkeeper"], "");
    [list("inet"), list("bridge")].concat()
}

#[test]
fn what_we_make_is_what_the_script_makes() {
    let name = "what_we_make_is_what_the_script_makes";
    let Some(ours) = Namespace::new(name) else { return };
    let Some(theirs) = Namespace::new(name) else { return };
    let tables = tables(&sample::everything());
    let mut kernel = kernel(&ours);
    let done = kernel.reconcile(&tables).unwrap();
    assert!(!done.is_empty());
    let again = kernel.reconcile(&tables).unwrap();
    assert!(again.is_empty(), "{again}");
    // And as it is read from the kernel, not from memory.
    kernel.forget();
    let again = kernel.reconcile(&tables).unwrap();
    assert!(again.is_empty(), "{again}");

    theirs.nft(&tables.script());
    pretty_eq(&listed(&ours), &listed(&theirs));
    // The other way round: what nft has made is already what we want.
    let mut kernel = self::kernel(&theirs);
    let nothing = kernel.reconcile(&tables).unwrap();
    assert!(nothing.is_empty(), "{nothing}");
}

fn pretty_eq(ours: &str, theirs: &str) {
    for (at, (our, their)) in ours.lines().zip(theirs.lines()).enumerate() {
        assert_eq!(our, their, "line {at}");
    }
    assert_eq!(ours.lines().count(), theirs.lines().count());
}

#[test]
fn whatever_others_do_is_undone() {
    let Some(namespace) = Namespace::new("whatever_others_do_is_undone") else { return };
    let tables = tables(&sample::everything());
    let mut kernel = kernel(&namespace);
    kernel.reconcile(&tables).unwrap();
    let before = listed(&namespace);
    let spoils = [
        "flush ruleset",
        "delete table inet innkeeper",
        "flush chain inet innkeeper forward",
        "insert rule inet innkeeper forward drop",
        "add rule inet innkeeper to-host accept",
        "add rule inet innkeeper to-host accept comment \"mine\"",
        "flush map inet innkeeper any-tcp4",
        "add element inet innkeeper any-tcp4 { 1 : 192.0.2.9 . 1 }",
        "delete element inet innkeeper any-tcp4 { 8080 }; add element inet innkeeper any-tcp4 { 8080 : 192.0.2.9 . 1 }",
        "add element inet innkeeper any-tcp4-ranges { 100-200 : 192.0.2.9 }",
        "flush map inet innkeeper any-tcp4-ranges",
        "add element inet innkeeper address-udp4-ranges { 192.0.2.1 . 100-200 : 192.0.2.9 }",
        "add chain inet innkeeper foreign { type filter hook forward priority 5; policy drop; }",
        "add set inet innkeeper foreign { type ipv4_addr; elements = { 192.0.2.1 } }",
        "add table inet innkeeper { flags dormant; }",
        "flush chain bridge innkeeper frames; flush map bridge innkeeper cards",
        "delete table bridge innkeeper",
    ];
    for spoil in spoils {
        namespace.nft(&spoil.replace("; add el", "\nadd el").replace("; flush", "\nflush"));
        let done = kernel.reconcile(&tables).unwrap();
        assert!(!done.is_empty(), "{spoil}");
        pretty_eq(&listed(&namespace), &before);
        let again = kernel.reconcile(&tables).unwrap();
        assert!(again.is_empty(), "{spoil}: {again}");
    }
}

#[test]
fn another_instance_and_others_stay_as_they_are() {
    let name = "another_instance_and_others_stay_as_they_are";
    let Some(namespace) = Namespace::new(name) else { return };
    namespace.nft("table inet other { chain c { tcp dport 1 drop; }; }\ntable ip innkeeper { }");
    let mut declared = sample::everything();
    let mut first = kernel(&namespace);
    first.reconcile(&tables(&declared)).unwrap();
    declared.instance = Instance(Some("two".into()));
    let mut second = namespace.run(|| Kernel::open(declared.instance.clone()).unwrap());
    second.reconcile(&tables(&declared)).unwrap();
    let before = listed(&namespace);
    second
        .reconcile(&tables(&Declared {
            instance: declared.instance.clone(),
            ..Declared::default()
        }))
        .unwrap();
    assert_eq!(before, listed(&namespace));
    let left = namespace.program(&["nft", "list", "tables"], "");
    assert_eq!(
        left,
        "table inet other\ntable ip innkeeper\ntable inet innkeeper\ntable bridge innkeeper\n"
    );
}

#[test]
fn changes_are_small_and_keep_what_was_counted() {
    let name = "changes_are_small_and_keep_what_was_counted";
    let Some(namespace) = Namespace::new(name) else { return };
    let mut declared = sample::everything();
    let mut kernel = kernel(&namespace);
    kernel.reconcile(&tables(&declared)).unwrap();
    // One more map is one element.
    declared.maps.push(sample::map(
        inn_domain::network::Listen::Any,
        inn_domain::network::Transport::Tcp,
        (4444, 4444),
        (&["10.77.1.2"], 44),
    ));
    let done = kernel.reconcile(&tables(&declared)).unwrap();
    assert_eq!(done.to_string(), "add 1 elements to inet innkeeper any-tcp4\n");
    // Another policy touches its VM's chains alone.
    declared.attachments[0].policy = Policy::None;
    let done = kernel.reconcile(&tables(&declared)).unwrap();
    let vm = declared.attachments[0].vm.to_string();
    for line in done.to_string().lines() {
        assert!(line.contains(&vm) || line.contains("mute"), "{line}");
    }
    declared.attachments.remove(0);
    declared.maps.clear();
    kernel.reconcile(&tables(&declared)).unwrap();
    kernel.forget();
    let again = kernel.reconcile(&tables(&declared)).unwrap();
    assert!(again.is_empty(), "{again}");
    let none = Declared::default();
    kernel.reconcile(&tables(&none)).unwrap();
    assert_eq!(namespace.program(&["nft", "list", "tables"], ""), "");
}

/// What others do is seen by one that follows, too; and what is counted is told
/// without looking at anything else again.
#[test]
fn one_that_follows_sees_what_others_do() {
    let Some(namespace) = Namespace::new("one_that_follows_sees_what_others_do") else { return };
    let mut declared = sample::everything();
    let (mut kernel, mut desired) = (kernel(&namespace), Desired::default());
    let mut follow = |declared: &Declared| {
        desired.follow(&Arc::new(declared.clone()));
        let done = kernel.follow(desired.wanted()).unwrap();
        kernel.count().unwrap();
        done
    };
    assert!(!follow(&declared).is_empty());
    assert!(follow(&declared).is_empty());
    let vm = declared.attachments.remove(1);
    let done = follow(&declared).to_string();
    assert!(done.contains("delete chain") && !done.contains("table"), "{done}");
    namespace.nft("flush chain inet innkeeper forward");
    declared.attachments.push(vm);
    let done = follow(&declared).to_string();
    assert!(done.contains("add rule inet innkeeper forward"), "{done}");
    namespace.nft("flush ruleset");
    assert!(!follow(&declared).is_empty());
    let mut kernel = self::kernel(&namespace);
    let left = kernel.reconcile(&tables(&declared)).unwrap();
    assert!(left.is_empty(), "{left}");
}

#[test]
fn a_refusal_names_the_step() {
    let Some(namespace) = Namespace::new("a_refusal_names_the_step") else { return };
    let mut tables = tables(&sample::everything());
    let table = tables.tables.get_mut(&Family::Inet).unwrap();
    let into_nowhere = Part::Do(Verdict::Jump("nowhere".into()));
    let forward = table.chains.get_mut("forward").unwrap();
    forward.rules.push(Rule::new("wrong", vec![into_nowhere]));
    let error = kernel(&namespace).reconcile(&tables).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("add rule inet innkeeper forward jump nowhere"), "{said}");
}
