use inn_client::api::{EndKind, GuestLink, GuestState, LastEnd, Phase, WhyStep};
use inn_units::{Generation, VmId};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn fine() -> VmWhy {
    VmWhy {
        id: VmId::from_bytes([1; 5]),
        name: "web".parse().unwrap(),
        verdict: Verdict::Fine,
        summary: "it is fine: it has been running for 3 min 0 s".into(),
        desired: Desired::Running,
        phase: Phase::Running,
        generation: Generation(2),
        observed_generation: Generation(2),
        step: None,
        causes: Vec::new(),
        plan: Vec::new(),
        failures: 0,
        next_try: None,
        guest: GuestState {
            link: GuestLink::Ready,
            reason: None,
            since: None,
            protocol: None,
            is_init: None,
            os: None,
            agent_version: None,
            boot_id: None,
        },
        runtimes: vec!["qemu: the first of runtimes.order that takes such a VM".to_owned()],
        network: None,
        receipt: None,
        workload: None,
        last_end: None,
        boot: None,
        failed_boot: None,
        console: Vec::new(),
        next: None,
    }
}

#[test]
fn what_is_fine_is_one_line_and_its_runtime() {
    let mut why = fine();
    // What an earlier life left is no news.
    why.console = vec!["old".into()];
    let text = describe(&why, at(0), Look::PLAIN);
    assert_eq!(
        text,
        "web: it is fine: it has been running for 3 min 0 s

runtime         qemu: the first of runtimes.order that takes such a VM
"
    );
}

#[test]
fn a_clone_says_what_its_guest_has_confirmed() {
    use inn_client::api::{ResumeReceipt, ResumeStep};
    let step = |name: &str, why: Option<&str>| ResumeStep {
        name: name.into(),
        result: if why.is_some() { "skipped" } else { "done" }.into(),
        why: why.map(Into::into),
        took_us: if why.is_some() { 0 } else { 1_250 },
    };
    let mut why = fine();
    why.receipt = Some(ResumeReceipt {
        origin: "golden".into(),
        snapshot: "0123456789abcdef".parse().unwrap(),
        boot_session: "ab".into(),
        confirmed_at: at(0),
        took_us: 12_500,
        clock_lag_us: 1,
        steps: vec![step("entropy", None), step("secrets", Some("there are none"))],
    });
    let text = describe(&why, at(0), Look::PLAIN);
    for words in
        ["begun from golden, confirmed 2023-", "entropy", "1.250 ms", "skipped: there are none"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn what_failed_is_told_with_its_causes_and_a_command() {
    let mut why = fine();
    why.verdict = Verdict::Failed;
    why.summary = "it failed at launch: cannot make /x: No space left".into();
    why.phase = Phase::Failed;
    why.step =
        Some(WhyStep { name: "launch".into(), failed: true, since: at(-90), deadline: None });
    why.causes = vec!["cannot make /x".into(), "No space left\x1b[2J".into()];
    why.last_end = Some(LastEnd {
        how: EndKind::Forced,
        reason: Some("it did not come up".into()),
        took_ms: Some(5),
        at: at(-89),
    });
    why.console = vec!["Kernel panic".into()];
    why.next =
        Some(NextAction { what: "free some space".into(), command: Some("df -h /x".into()) });
    assert_eq!(
        describe(&why, at(0), Look::PLAIN),
        "\
web: it failed at launch: cannot make /x: No space left

desired         running (generation 2)
observed        failed (settled)
step            launch (failed 1m ago)
because         cannot make /x
                No space left[2J
guest agent     ready
runtime         qemu: the first of runtimes.order that takes such a VM
last end        forced, 5 ms: it did not come up, 1m ago

console
  | Kernel panic

next            free some space
                df -h /x
"
    );
}

#[test]
fn what_waits_says_for_how_long() {
    let mut why = fine();
    why.verdict = Verdict::Waiting;
    why.phase = Phase::Stopped;
    why.next_try = Some(at(4));
    why.failures = 3;
    why.observed_generation = Generation(1);
    why.plan = vec!["wait".into(), "launch for generation 2".into()];
    why.step = Some(WhyStep {
        name: "handshake".into(),
        failed: false,
        since: at(-12),
        deadline: Some(at(48)),
    });
    let text = describe(&why, at(0), Look::PLAIN);
    for part in [
        "observed        stopped (settled last at generation 1)\n",
        "next attempt    in 4s, 3 failures so far\n",
        "left to do      wait, launch for generation 2\n",
        "step            handshake (for 12s, given up in 48s)\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
