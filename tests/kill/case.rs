//! One case: an agent dies at a point, and another one comes.
//!
//! ```text
//!   a life before ─ kill ─▶ a life with the point armed ─ dies there ─▶ the next
//!     steady, subject           does the deed                              │
//!                                                                          ▼
//!   as before any VM ◀─ all deleted ◀─ asked again ◀─ nothing lost, nobody's, undone
//! ```

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use inn_tests::libvirtd::Libvirtd;
use inn_tests::wait;
use serde_json::Value;

use crate::audit;
use crate::deed::{After, Deed, IMAGE, LOST, STEADY, SUBJECT};
use crate::ground::{Ground, Runtime};
use crate::of_node;
use crate::scenarios::Case;
use crate::tally::Tally;

/// From the next agent's start until all is as it shall be. A machine may have
/// to boot without KVM on a busy host.
const CONVERGES: Duration = Duration::from_secs(120);

/// The same for one under a KVM that is emulated itself.
pub(crate) const CONVERGES_SLOWLY: Duration = Duration::from_secs(600);

/// What an audit may still find that is just on its way out.
const LINGERS: Duration = Duration::from_secs(10);

/// What was found; nothing bad, or the case has failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verdict {
    pub(crate) converged: Duration,
}

/// Panics with what is wrong. `libvirtd` is for a case with domains.
pub(crate) fn run(case: &Case, libvirtd: Option<Libvirtd>) -> Verdict {
    let ground = match case.deed {
        Deed::FirstStart => Ground::bare(case.runtime, libvirtd),
        _ => Ground::new(case.runtime, libvirtd),
    };
    let ground = match case.has_bridges() {
        true => ground.with_bridges(),
        false if case.has_forwards() => ground.with_user_network(),
        false => ground,
    };
    let ground = match case.has_zone() {
        true => ground.with_zone(),
        false => ground,
    };
    let ground = match case.deed {
        Deed::MakeTemplate | Deed::TakeClone => ground.with_templates(),
        _ => ground,
    };
    of_node::configure(case.deed, &ground);
    let mut before = Vec::new();
    let mut seen = BTreeSet::new();
    let mut bare = None;
    if case.deed.has_past() {
        ground.start();
        bare = Some(Tally::of(&ground, &seen));
        case.deed.prepare(&ground);
        if case.has_zone() {
            // The next agent is to find nothing to ask for.
            wait::until("its bridges are in the zone", || {
                (ground.zone()? == ground.bridges()).then_some(())
            });
        }
        before = ground.vms();
        ground.host.kill_agent();
        case.deed.ruin(&ground, &before);
    }
    seen.extend(audit::ids(&before));
    let mut agent = ground.start_armed(&case.armed());
    case.deed.perform(&ground, &mut agent);
    ground.until_dead(agent, case.point);
    seen.extend(audit::ids_of_files(&ground));

    let begun = Instant::now();
    ground.start();
    let bare = bare.unwrap_or_else(|| Tally::of(&ground, &seen));
    let converges = match case.runtime {
        Runtime::Firecracker | Runtime::Krun => CONVERGES_SLOWLY,
        Runtime::Sim | Runtime::Qemu | Runtime::Libvirt => CONVERGES,
    };
    let converged = wait::within(converges, || {
        unmet(case, &ground, &before).is_empty().then(|| begun.elapsed())
    });
    let Some(converged) = converged else {
        let unmet = unmet(case, &ground, &before).join("; ");
        panic!("{}\nafter {converges:?}: {unmet}", ground.last_words());
    };
    until_clean(&ground, &seen, "after the restart");
    case.deed.ask_again(&ground);
    if let Some(lost) = lost(case.deed, &ground, &before) {
        panic!("{}\nasked again, {lost}", ground.last_words());
    }
    seen.extend(audit::ids(&ground.vms()));
    // A guest may be on its way down still.
    let settled = wait::within(converges, || unsettled(&ground.vms()).is_empty().then_some(()));
    if settled.is_none() {
        let unsettled = unsettled(&ground.vms());
        panic!("{}\ndoes not settle: {unsettled:?}", ground.last_words());
    }
    until_clean(&ground, &seen, "after the operation was asked for again");
    seen.extend(audit::ids(&ground.vms()));
    delete_all(&ground);
    let differs = || Tally::of(&ground, &seen).differs_from(&bare);
    if wait::within(LINGERS, || differs().is_empty().then_some(())).is_none() {
        let differs = differs().join("\n  ");
        panic!("{}\nnot as before the first VM:\n  {differs}", ground.last_words());
    }
    let domains = ground.libvirtd.as_ref().map(Libvirtd::domains).unwrap_or_default();
    assert!(domains.is_empty(), "{}\nlibvirt still has {domains}", ground.last_words());
    ground.host.finish();
    Verdict { converged }
}

fn delete_all(ground: &Ground) {
    for vm in ground.vms() {
        let id = vm["id"].as_str().expect("a VM has an id");
        let path = format!("/api/vms/{id}?force=true&purgePersist=true&wait=60s");
        let gone = ground.ask("DELETE", &path, &Value::Null).expect("the agent answers");
        assert!(gone.is_success() || gone.status == 404, "{gone:?}");
    }
}

pub(crate) fn until_clean(ground: &Ground, seen: &BTreeSet<String>, when: &str) {
    if wait::within(LINGERS, || audit::orphans(ground, seen).is_empty().then_some(())).is_none() {
        let orphans = audit::orphans(ground, seen).join("\n  ");
        panic!("{}\n{when} nobody's:\n  {orphans}", ground.last_words());
    }
}

/// All that is not as it shall be. Empty: it has converged.
fn unmet(case: &Case, ground: &Ground, before: &[Value]) -> Vec<String> {
    let vms = ground.vms();
    let mut unmet = unsettled(&vms);
    unmet.extend(lost(case.deed, ground, before));
    let find = |vms: &[Value], name: &str| vms.iter().find(|vm| vm["name"] == name).cloned();
    let subject = find(&vms, SUBJECT);
    let phase = subject.as_ref().map(|vm| vm["phase"].clone());
    let machine = subject.as_ref().map(machine);
    let machine_before = find(before, SUBJECT).as_ref().map(self::machine);
    let runs = phase.as_ref().is_some_and(|phase| phase == "running");
    let met = match case.after {
        After::Absent => subject.is_none(),
        After::Running => runs,
        After::Same => runs && machine == machine_before,
        After::Anew => runs && machine != machine_before,
        After::Paused => {
            phase.is_some_and(|phase| phase == "paused")
                && pid(subject.as_ref()) == pid(find(before, SUBJECT).as_ref())
        }
        After::Stopped => phase.is_some_and(|phase| phase == "stopped"),
        After::ImageAbsent => !has_image(ground),
        After::ImagePresent => has_image(ground),
        After::Serving => ground.host.data().join("token").exists(),
        After::TokenThere => of_node::has_token(ground, false),
        After::TokenRevoked => of_node::has_token(ground, true),
        After::AllStopped => vms.iter().all(|vm| vm["phase"] == "stopped"),
        After::Undrained => ground.host.node()["drained"] == false,
    };
    if !met {
        unmet.push(format!("{} is not {}: {subject:?}", case.deed.name(), case.after.words()));
    }
    if let Some(zone) = ground.zone()
        && zone != ground.bridges()
    {
        unmet.push(format!("firewalld's zone has {zone:?}, and not {:?}", ground.bridges()));
    }
    // A lease ends with its agent.
    let leased = vms.iter().filter(|vm| vm["lease"] == true);
    unmet.extend(leased.map(|vm| format!("the leased {} is there", vm["name"])));
    unmet
}

/// Of one whose guest tells nothing.
fn pid(vm: Option<&Value>) -> Option<Value> {
    vm.map(|vm| vm["pid"].clone())
}

fn has_image(ground: &Ground) -> bool {
    ground.images().iter().any(|name| name.trim_end_matches(":latest") == IMAGE)
}

/// VMs that are not what is desired yet.
pub(crate) fn unsettled(vms: &[Value]) -> Vec<String> {
    let unsettled = |vm: &&Value| {
        let at_rest = match (vm["desired"].as_str(), vm["phase"].as_str()) {
            // One that failed says so, and waits to be asked again.
            (Some("running"), Some("failed" | "stopped")) => true,
            (Some("running"), Some("running")) => vm["guest"]["link"] == "ready" || !is_micro(vm),
            (Some("running"), Some("paused")) => {
                vm.get("paused").is_some() || vm.get("rest").is_some()
            }
            (Some("stopped"), Some("stopped")) => true,
            _ => false,
        };
        !at_rest || vm["generation"] != vm["observedGeneration"]
    };
    let vms = vms.iter().filter(unsettled);
    vms.map(|vm| format!("{} is {} on its way to {}", vm["name"], vm["phase"], vm["desired"]))
        .collect()
}

fn is_micro(vm: &Value) -> bool {
    vm["diskImage"].is_null()
}

/// The VMs that were answered for and that nobody has touched: there, running,
/// and on the very machine that they had. A deed that is about all touches
/// these, too: then they are there.
fn lost(deed: Deed, ground: &Ground, before: &[Value]) -> Option<String> {
    let vms = ground.vms();
    let find = |name: &str| vms.iter().find(|vm| vm["name"] == name);
    for was in before {
        let name = was["name"].as_str().unwrap_or_default();
        let is = find(name);
        let lost = match name {
            STEADY if deed.is_about_all() => is.is_none(),
            STEADY => is.is_none_or(|is| is["phase"] != "running" || machine(is) != machine(was)),
            LOST => is.is_none(),
            _ => false,
        };
        if lost {
            return Some(format!("{name} is lost: it was {was}, and is {is:?}"));
        }
    }
    None
}

/// What tells one machine from another: the process, and the boot in it.
fn machine(vm: &Value) -> (Value, Value) {
    (vm["pid"].clone(), vm["guest"]["bootId"].clone())
}
