use std::collections::BTreeMap;
use std::sync::Arc;

use inn_domain::{
    Backoff, ChannelChoice, Desired, Down, DownReason, EndKind, ImagePin, MachineView, Motion,
    Network, Observed, PhaseResult, Removal, RestartPolicy, RunDefaults, RuntimeChoice, StopKind,
    VmSource, WorkloadChoice,
};
use inn_store::{BootRecord, EndRecord, FailureRecord, ObservedRecord};
use inn_units::{Bytes, Digest, Generation, Vcpus};

use super::super::link::LinkReason;
use super::*;

const GRACE: StopKind = StopKind::Graceful { grace: Duration::from_secs(30) };

fn spec(restart: RestartPolicy) -> VmSpec {
    VmSpec {
        name: "web".parse().unwrap(),
        source: VmSource::Image(ImagePin {
            name: "base".into(),
            digest: Digest::from_sha256([1; 32]),
            root_disk: "/images/base.img".into(),
            run: RunDefaults {
                entrypoint: Vec::new(),
                cmd: Vec::new(),
                env: Vec::new(),
                working_dir: None,
                user: None,
            },
        }),
        language: None,
        vcpus: Vcpus::ONE,
        memory: Bytes::mib(256),
        disk: Bytes::gib(2),
        network: Network::None,
        addresses: inn_domain::network::AddressWish::default(),
        policy: inn_domain::network::Policy::default(),
        env: BTreeMap::new(),
        command: None,
        workload: WorkloadChoice::Image,
        labels: BTreeMap::new(),
        runtime: RuntimeChoice::Sim,
        channel: ChannelChoice::Auto,
        restart,
        kernel: None,
        cloud_init: None,
        limits: inn_domain::ResourceLimits::default(),
        persist: false,
        lease: false,
        stable_addresses: inn_domain::StableAddresses::Auto,
        from: None,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

const NOW: i64 = 100;

/// A VM that runs, as its task shows it.
fn up() -> VmView {
    let desired = Desired::first(true, GRACE);
    let guest = Guest::Up;
    let machine = Some(MachineView {
        run: desired.run,
        guest,
        full: false,
        set_up: false,
        motion: Motion::Runs,
        unconfirmed: false,
    });
    let record = ObservedRecord {
        observed: Observed { disks: true, machine, ..Observed::default() },
        ..ObservedRecord::default()
    };
    let mut view = VmView::new(desired, &record, Duration::from_secs(60));
    view.observed.up_run = Some(Generation::FIRST);
    view.phase = VmPhase::Running;
    view.link = Link::Ready;
    view.link_reason = None;
    view.started_at = Some(at(0));
    view
}

fn down(reason: DownReason, phase: VmPhase) -> VmView {
    let mut view = up();
    view.observed.machine = None;
    view.observed.down = Some(Down { generation: Generation::FIRST, reason });
    view.phase = phase;
    view.link = Link::Absent;
    view
}

fn failure(step: &str) -> Option<Arc<FailureRecord>> {
    Some(Arc::new(FailureRecord {
        step: step.into(),
        cause: "cannot make /x: No space left".into(),
        causes: vec!["cannot make /x".into(), "No space left".into()],
        next: "free some space".into(),
        command: Some("df -h /x".into()),
        console: Vec::new(),
        at: at(90),
    }))
}

fn judge_of(view: &VmView, restart: RestartPolicy) -> Why {
    judge_with(view, restart, &[])
}

fn judge_with(view: &VmView, restart: RestartPolicy, network: &[String]) -> Why {
    why(&WhyFacts {
        spec: &spec(restart),
        view,
        network,
        now: at(NOW),
        moment: Moment(Duration::from_secs(1_000)),
        instant: Instant::now(),
    })
}

fn judge(view: &VmView) -> Why {
    judge_of(view, RestartPolicy::No)
}

fn action(what: &str, command: &str) -> Option<NextAction> {
    Some(NextAction { what: what.into(), command: Some(command.into()) })
}

#[tokio::test]
async fn what_is_in_the_way_of_its_network_is_named() {
    let mut view = up();
    let troubles = ["Docker's chain FORWARD drops it".to_owned(), "another".to_owned()];
    let why = judge_with(&view, RestartPolicy::No, &troubles);
    assert_eq!(why.verdict, Verdict::Impaired);
    assert!(why.summary.ends_with("network holds: Docker's chain FORWARD drops it"), "{why:?}");
    assert_eq!(why.causes, troubles);
    assert_eq!(why.next.unwrap().command.unwrap(), "inn port restore");
    // What is worse comes first.
    view.link = Link::Lost;
    let why = judge_with(&view, RestartPolicy::No, &troubles);
    assert!(why.summary.contains("guest agent is lost"), "{why:?}");
}

#[tokio::test]
async fn what_is_fine_is_said_in_one_line() {
    let mut view = up();
    let why = judge(&view);
    assert_eq!(
        why,
        Why {
            verdict: Verdict::Fine,
            summary: "it is fine: it has been running for 1 min 40 s".into(),
            step: None,
            causes: Vec::new(),
            plan: VmPlan::default(),
            failures: 0,
            next_try: None,
            next: None,
        }
    );
    // A slow start is no fault, but is told.
    let mut boot = BootRecord {
        at: at(0),
        console_from: 0,
        emulated: true,
        timeline: inn_domain::BootTimeline::default(),
    };
    boot.timeline.open(BootPhase::Handshake, Duration::ZERO);
    boot.timeline.close(PhaseResult::Done, Duration::from_secs(5));
    Arc::make_mut(&mut view.boots).last = Some(boot);
    assert!(judge(&view).summary.ends_with("took longer than it should at handshake"));
}

#[tokio::test]
async fn a_failed_start_tells_step_causes_and_its_own_way_out() {
    let mut view = down(DownReason::StartFailed, VmPhase::Failed);
    view.failure = failure("launch");
    let why = judge(&view);
    assert_eq!(why.verdict, Verdict::Failed);
    assert_eq!(why.summary, "it failed at launch: cannot make /x: No space left");
    assert_eq!(why.causes, ["cannot make /x", "No space left"]);
    let step = StepState { name: "launch".into(), since: at(90), deadline: None, failed: true };
    assert_eq!(why.step, Some(step));
    assert!(why.plan.is_empty(), "{}", why.plan);
    assert_eq!(why.next, action("free some space", "df -h /x"));

    // As an older agent has stored it.
    let old = FailureRecord {
        causes: Vec::new(),
        command: None,
        ..(*failure("launch").unwrap()).clone()
    };
    view.failure = Some(Arc::new(old));
    let why = judge(&view);
    assert_eq!(why.causes, ["cannot make /x: No space left"]);
    assert_eq!(why.next, action("free some space", "inn vm start web"));
}

#[tokio::test]
async fn a_step_at_work_has_its_time_and_its_deadline() {
    let mut view = up();
    view.observed.set_guest(Guest::Booting);
    view.phase = VmPhase::Starting;
    view.activity =
        Activity::AtWork { step: VmStep::Handshake, since: at(88), deadline: Some(at(148)) };
    let why = judge(&view);
    assert_eq!(why.verdict, Verdict::Underway);
    assert_eq!(why.summary, "it is starting: at handshake for 12.00 s, of 1 min 0 s at most");
    let step = StepState {
        name: "handshake".into(),
        since: at(88),
        deadline: Some(at(148)),
        failed: false,
    };
    assert_eq!(why.step, Some(step));
    assert_eq!(why.plan.to_string(), "handshake, configure, start-workload");
    assert!(why.next.unwrap().command.unwrap().contains("--source console"));

    // A clock that was set back makes nothing negative.
    view.activity = Activity::AtWork { step: VmStep::Kill, since: at(500), deadline: None };
    assert_eq!(judge(&view).summary, "it is starting: at kill for 0 ms");
}

#[tokio::test]
async fn backoff_says_when_and_how_to_hurry() {
    let mut view = down(DownReason::Crashed, VmPhase::Failed);
    view.failure = failure("run");
    let now = Moment(Duration::from_secs(1_000));
    let twice = Backoff::default().failed(now, Duration::ZERO).failed(now, Duration::ZERO);
    view.observed.backoff = twice;
    let until = twice.not_before();
    view.activity = Activity::Waits { step: VmStep::WaitUntil(until), until };
    let why = judge_of(&view, RestartPolicy::OnFailure);
    assert_eq!((why.verdict, why.failures), (Verdict::Waiting, 2));
    assert_eq!(why.next_try, Some(at(NOW + 2)));
    assert!(
        why.summary.starts_with(
            "it went down 2 times in a row and starts again in 2.00 s, by its policy on-failure"
        ),
        "{}",
        why.summary
    );
    assert!(why.plan.to_string().contains("launch for 1"), "{}", why.plan);
    assert_eq!(why.causes, ["cannot make /x", "No space left"]);
    assert_eq!(why.next, action("wait, or start it now", "inn vm start web"));
}

#[tokio::test]
async fn stopped_is_as_asked_or_by_policy() {
    let mut view = down(DownReason::PoweredOff, VmPhase::Stopped);
    view.last_end = Some(Arc::new(EndRecord {
        how: EndKind::ByItself,
        reason: Some("the guest powered off".into()),
        took: None,
        at: at(50),
    }));
    let why = judge(&view);
    assert_eq!(why.verdict, Verdict::Stopped);
    assert_eq!(
        why.summary,
        "it is stopped: the guest powered off, and its restart policy leaves it so"
    );
    view.desired.power = Power::Stopped;
    assert_eq!(judge(&view).summary, "it is stopped, as it was asked to");
    assert_eq!(judge(&view).next, action("start it", "inn vm start web"));
}

#[tokio::test]
async fn a_deletion_that_hangs_names_what_it_hangs_on() {
    let mut view = up();
    view.desired.power = Power::Deleted;
    view.phase = VmPhase::Deleting;
    view.activity = Activity::AtWork {
        step: VmStep::Shutdown { grace: Duration::from_secs(30) },
        since: at(80),
        deadline: Some(at(110)),
    };
    let why = judge(&view);
    assert_eq!(why.verdict, Verdict::Underway);
    assert_eq!(why.summary, "it is being deleted: at shutdown for 20.00 s, of 30.00 s at most");
    assert_eq!(why.next.unwrap().command.unwrap(), "inn vm delete web --force");

    let remove = VmStep::RemoveFiles { removal: Removal::default() };
    let until = Moment(Duration::from_secs(1_008));
    view.observed.machine = None;
    view.activity = Activity::Waits { step: remove, until };
    view.failure = failure("remove-files");
    let why = judge(&view);
    assert_eq!(why.verdict, Verdict::Failed);
    assert_eq!(
        why.summary,
        "it cannot be deleted: remove-files: cannot make /x: No space left; it is tried again in 8.00 s"
    );
    assert_eq!(why.plan.to_string(), "remove-files, forget");
    assert_eq!(why.next, action("free some space", "df -h /x"));
    // What failed before it was deleted is no news of the deletion.
    view.failure = failure("handshake");
    assert_eq!(judge(&view).verdict, Verdict::Underway);
}

#[tokio::test]
async fn what_runs_and_is_not_well_says_what_is_wrong() {
    let mut view = up();
    view.link = Link::Lost;
    view.link_reason = Some(LinkReason::Lost("the channel was closed".into()));
    let until = Moment(Duration::from_secs(1_003));
    view.activity = Activity::Waits { step: VmStep::Reconnect, until };
    let why = judge(&view);
    assert_eq!(why.verdict, Verdict::Impaired);
    assert_eq!(why.causes, ["the channel was closed"]);
    assert_eq!(why.next_try, Some(at(NOW + 3)));
    assert_eq!(why.next.unwrap().command.unwrap(), "inn vm restart web --force");

    let mut view = up();
    let ended = |running, exit_code, reason: Option<&str>| {
        Some(Arc::new(WorkloadRecord {
            running,
            exit_code,
            reason: reason.map(str::to_owned),
            ..WorkloadRecord::default()
        }))
    };
    view.workload = ended(false, Some(0), None);
    assert_eq!(judge(&view).verdict, Verdict::Fine);
    view.workload = ended(true, None, None);
    assert_eq!(judge(&view).verdict, Verdict::Fine);
    view.workload = ended(false, Some(3), None);
    let why = judge(&view);
    assert_eq!(why.summary, "it runs, and its workload does not: it ended with 3");
    assert_eq!(why.next, action("read what it printed", "inn vm logs web --tail 20"));
    view.workload = ended(true, Some(1), Some("it starts again in 2.00 s"));
    assert_eq!(judge(&view).causes, ["it ended with 1: it starts again in 2.00 s"]);
    view.workload = ended(false, None, Some("there is no such program"));
    assert_eq!(judge(&view).causes, ["there is no such program"]);
}

#[tokio::test]
async fn every_verdict_but_fine_has_a_command() {
    let mut absent = up();
    absent.observed.machine = Some(MachineView {
        run: Generation::FIRST,
        guest: Guest::Absent,
        full: true,
        set_up: false,
        motion: Motion::Runs,
        unconfirmed: false,
    });
    absent.link = Link::Absent;
    absent.link_reason = Some(LinkReason::NoAgent { within: Duration::from_secs(60) });
    let mut silent = up();
    silent.link = Link::Degraded;
    silent.link_reason = Some(LinkReason::Silent { since: Instant::now() });
    let mut connecting = up();
    connecting.link = Link::Connecting;
    connecting.link_reason = Some(LinkReason::Boots);
    let mut pending = up();
    pending.phase = VmPhase::Pending;
    for view in [
        absent,
        silent,
        connecting,
        pending,
        down(DownReason::StartFailed, VmPhase::Failed),
        down(DownReason::Crashed, VmPhase::Failed),
        down(DownReason::Reset, VmPhase::Stopped),
    ] {
        let why = judge(&view);
        assert_ne!(why.verdict, Verdict::Fine, "{why:?}");
        let next = why.next.unwrap_or_else(|| panic!("{view:?}"));
        assert!(next.command.unwrap().starts_with("inn vm "), "{view:?}");
    }
}
