//! The deeds that are settings of a VM, or the whole node's.

use inn_tests::api::Answer;
use inn_tests::wait;
use serde_json::{Value, json};

use crate::deed::{Deed, STEADY, SUBJECT};
use crate::ground::Ground;

/// How many events are kept where some have to go.
const KEPT: usize = 100;

/// More requests than there are events between two prunings.
const MANY: usize = 2_000;

const NOTHING: Value = Value::Null;

/// The agent's configuration, before its first start.
pub(crate) fn configure(deed: Deed, ground: &Ground) {
    if deed == Deed::PruneEvents {
        std::fs::write(ground.host.config(), format!("events.keep = {KEPT}\n")).unwrap();
    }
}

/// What is there before, besides VMs.
pub(crate) fn prepare(deed: Deed, ground: &Ground) {
    match deed {
        Deed::RevokeToken => drop(create_token(ground).expect("the agent answers").ok()),
        Deed::DeleteNetwork => drop(create_network(ground).expect("the agent answers").ok()),
        Deed::UnmapPorts => drop(map_ports(ground).expect("the agent answers").ok()),
        Deed::Undrain => drop(drain(ground, false).expect("the agent answers").ok()),
        Deed::ReleaseGuests => drop(hold(ground).expect("the agent answers").ok()),
        Deed::DeleteSnapshot => snapshot_is_there(ground),
        Deed::Resume => drop(pause(ground, "pause").expect("the agent answers").ok()),
        Deed::WakeFromPause | Deed::WakeFromSnapshot => {
            let action = if deed == Deed::WakeFromPause { "pause" } else { "snapshot" };
            set_idle(ground, Some(action)).expect("the agent answers").ok();
            until_rests(ground);
            // And not again by itself.
            set_idle(ground, None).expect("the agent answers").ok();
        }
        _ => {}
    }
}

pub(crate) fn ask(deed: Deed, ground: &Ground) -> Option<Answer> {
    let vm = |rest: &str| format!("/api/vms/{SUBJECT}{rest}");
    let ends = |action: &str| json!({ "ttlSeconds": 1, "ttlAction": action });
    match deed {
        Deed::ChangeLimits => {
            ground.ask("PATCH", &vm("/limits"), &json!({ "cpuQuotaPercent": 50 }))
        }
        Deed::CreateNetwork => create_network(ground),
        Deed::DeleteNetwork => ground.ask("DELETE", &format!("/api/networks/{NETWORK}"), &NOTHING),
        Deed::MapPorts => map_ports(ground),
        Deed::UnmapPorts => unmap_port(ground),
        Deed::ChangeAddress => {
            ground.ask("PATCH", &vm("/ip"), &json!({ "ipv4": other_address(ground) }))
        }
        Deed::ChangePolicy => ground.ask("PUT", &vm("/policy"), &json!({ "mode": "none" })),
        Deed::TakeSnapshot => take_snapshot(ground),
        Deed::DeleteSnapshot => ground.send("DELETE", SNAPSHOT, b""),
        Deed::Fork => ground.send("POST", &vm("/fork?wait=120s"), b"{}"),
        Deed::Pause => pause(ground, "pause"),
        Deed::Resume => pause(ground, "resume"),
        Deed::SetTtl => ground.ask("POST", &vm("/ttl"), &json!({ "ttlSeconds": 3600 })),
        Deed::EndTtlByStop => ground.ask("POST", &vm("/ttl"), &ends("stop")),
        Deed::EndTtlByDelete => ground.ask("POST", &vm("/ttl"), &ends("delete")),
        Deed::SetIdle => {
            let idle = json!({ "onIdle": { "action": "pause", "afterSeconds": 3600 } });
            ground.ask("PUT", &vm("/idle"), &idle)
        }
        Deed::RestByPause => set_idle(ground, Some("pause")),
        Deed::RestByStop => set_idle(ground, Some("stop")),
        Deed::RestBySnapshot => set_idle(ground, Some("snapshot")),
        Deed::WakeFromPause | Deed::WakeFromSnapshot => wake(ground),
        Deed::CreateToken => create_token(ground),
        Deed::RevokeToken => revoke_token(ground),
        Deed::Drain => drain(ground, true),
        Deed::Undrain => ground.ask("POST", "/api/node/undrain", &NOTHING),
        Deed::HoldGuests => hold(ground),
        Deed::ReleaseGuests => ground.ask("POST", "/api/node/guests/start", &NOTHING),
        Deed::Upgrade => upgrade(ground),
        _ => unreachable!("{deed:?} is no single request"),
    }
}

const SNAPSHOT: &str = "/api/snapshots/golden";

/// So soon that a test can wait for it.
fn set_idle(ground: &Ground, action: Option<&str>) -> Option<Answer> {
    let on_idle = action.map(|action| json!({ "action": action, "afterSeconds": 1 }));
    let body = json!({ "onIdle": on_idle }).to_string();
    ground.send("PUT", &format!("/api/vms/{SUBJECT}/idle"), body.as_bytes())
}

/// By a command.
fn wake(ground: &Ground) -> Option<Answer> {
    ground.send("POST", &format!("/api/vms/{SUBJECT}/execs"), br#"{"command":["true"]}"#)
}

fn until_rests(ground: &Ground) {
    wait::until("it rests", || {
        let vm = ground.get(&format!("/api/vms/{SUBJECT}"))?.json();
        let down = vm["phase"] == "paused" || vm["phase"] == "stopped";
        (down && vm.get("rest").is_some()).then_some(())
    });
}

fn take_snapshot(ground: &Ground) -> Option<Answer> {
    let path = format!("/api/vms/{SUBJECT}/snapshot?wait=120s");
    ground.send("POST", &path, br#"{"name":"golden"}"#)
}

fn snapshot_is_there(ground: &Ground) {
    let taken = take_snapshot(ground).expect("the agent answers").ok().json();
    assert_eq!(taken["state"], "succeeded", "{taken}");
}

/// Of an answer without a body.
fn ok_empty(answer: Option<Answer>) {
    let answer = answer.expect("the agent answers");
    assert!(answer.is_success(), "{answer:?}");
}

/// Without a key: each is to be carried out.
fn pause(ground: &Ground, verb: &str) -> Option<Answer> {
    ground.send("POST", &format!("/api/vms/{SUBJECT}/{verb}?wait=120s"), b"")
}

/// Asks for what leaves an event each time, until the agent is dead.
pub(crate) fn fill_events(ground: &Ground) {
    for _ in 0..MANY {
        // Without a key: each is to be carried out.
        if ground.send("POST", "/api/node/reload", b"").is_none() {
            return;
        }
    }
}

/// And brings back what it has stopped.
pub(crate) fn ask_again(deed: Deed, ground: &Ground) {
    let ok = |answer: Option<Answer>| answer.expect("the agent answers").ok().json();
    let start = |name: &str| {
        let path = format!("/api/vms/{name}");
        ok(ground.ask("POST", &format!("{path}/start?wait=120s"), &NOTHING));
        // One that was held is on its way already, and nothing new is asked of it.
        wait::until("it runs", || {
            let vm = ok(ground.get(&path));
            (vm["phase"] == "running").then_some(vm)
        })
    };
    match deed {
        Deed::ChangeLimits => {
            let limits = ok(ask(deed, ground));
            assert_eq!(limits["cpuQuotaPercent"], 50, "{limits}");
        }
        // What was stored is true, and what holds is what was stored.
        Deed::CreateNetwork | Deed::DeleteNetwork => {
            let path = format!("/api/networks/{NETWORK}");
            if ground.get(&path).expect("the agent answers").is_success() {
                ok(ground.ask("DELETE", &path, &NOTHING));
            }
            // Without keys: one that was answered before would not be carried out.
            ok(ground.send("POST", "/api/networks", network().to_string().as_bytes()));
            ok(ground.send("DELETE", &path, b""));
            nothing_to_mend(ground);
        }
        Deed::MapPorts | Deed::UnmapPorts => {
            while !ports(ground).is_empty() {
                ok(unmap_port(ground));
            }
            ok(ground.send("POST", "/api/ports", maps().to_string().as_bytes()));
            assert_eq!(ports(ground).len(), 2);
            nothing_to_mend(ground);
        }
        Deed::ChangePolicy => {
            let policy = ok(ask(deed, ground));
            assert_eq!(policy["mode"], "none", "{policy}");
            nothing_to_mend(ground);
        }
        Deed::ChangeAddress => {
            let wanted = other_address(ground);
            let now = ok(ask(deed, ground));
            assert_eq!((&now["ipv4"], now.get("pending")), (&json!(wanted), None), "{now}");
            let stats = ok(ground.get(&format!("/api/vms/{SUBJECT}/stats?fresh=true")));
            let told = stats["now"]["interfaces"][0]["addresses"][0].as_str().unwrap();
            assert!(told.starts_with(&format!("{wanted}/")), "its guest has {told}");
            nothing_to_mend(ground);
        }
        Deed::SetTtl => {
            let vm = ok(ask(deed, ground));
            assert!(vm["ttl"]["secondsLeft"].as_u64().is_some_and(|left| left > 3500), "{vm}");
        }
        // One that was stored is whole.
        Deed::TakeSnapshot | Deed::DeleteSnapshot => {
            let there = ground.get(SNAPSHOT).expect("the agent answers").is_success();
            if there {
                ok(ground.send("POST", &format!("{SNAPSHOT}/fork?wait=120s"), b"{}"));
                ok_empty(ground.send("DELETE", SNAPSHOT, b""));
            }
            snapshot_is_there(ground);
            ok_empty(ground.send("DELETE", SNAPSHOT, b""));
        }
        Deed::Fork => drop(ok(ask(deed, ground))),
        // And runs a program once it goes on.
        Deed::Pause | Deed::Resume => {
            ok(pause(ground, "pause"));
            assert_eq!(ok(ground.get(&format!("/api/vms/{SUBJECT}")))["phase"], "paused");
            ok(pause(ground, "resume"));
            wait::until("its guest is back", || {
                let vm = ok(ground.get(&format!("/api/vms/{SUBJECT}")));
                (vm["phase"] == "running" && vm["guest"]["link"] == "ready").then_some(())
            });
        }
        Deed::SetIdle => assert_eq!(ok(ask(deed, ground))["onIdle"]["afterSeconds"], 3600),
        // Whoever needs it has it, and nobody's use is no reason any more.
        Deed::RestByPause
        | Deed::RestByStop
        | Deed::RestBySnapshot
        | Deed::WakeFromPause
        | Deed::WakeFromSnapshot => {
            ok(wake(ground));
            ok(set_idle(ground, None));
            start(SUBJECT);
        }
        // It had its time: started again it stays.
        Deed::EndTtlByStop => {
            let vm = start(SUBJECT);
            assert!(vm.get("ttl").is_none(), "{vm}");
        }
        // Nobody has the one of the request that was never answered.
        Deed::CreateToken => {
            ok(revoke_token(ground));
            ok(create_token(ground));
        }
        Deed::RevokeToken => drop(ok(ask(deed, ground))),
        Deed::PruneEvents => prune_again(ground),
        Deed::Drain => {
            ok(ask(deed, ground));
            until_stopped(ground);
            ok(ground.ask("POST", "/api/node/undrain", &NOTHING));
            start(STEADY);
            start(SUBJECT);
        }
        // Whoever asks meanwhile waits for the program that follows.
        Deed::Upgrade => {
            let before = times_served(ground);
            // Without a key: by its own it is known that one was begun.
            ok(ground.send("POST", "/api/node/upgrade", b"{}"));
            wait::until("the next program serves", || {
                (times_served(ground) > before).then_some(())
            });
        }
        Deed::Undrain => {
            ok(ask(deed, ground));
            start(SUBJECT);
        }
        Deed::HoldGuests => {
            ok(ask(deed, ground));
            until_stopped(ground);
            ok(ground.ask("POST", "/api/node/guests/start", &NOTHING));
            start(STEADY);
            start(SUBJECT);
        }
        Deed::ReleaseGuests => {
            ok(ask(deed, ground));
            start(STEADY);
            start(SUBJECT);
        }
        _ => unreachable!("{deed:?} is asked again elsewhere"),
    }
}

const NETWORK: &str = "lab";

fn create_network(ground: &Ground) -> Option<Answer> {
    ground.ask("POST", "/api/networks", &network())
}

fn network() -> Value {
    json!({ "name": NETWORK })
}

fn map_ports(ground: &Ground) -> Option<Answer> {
    ground.ask("POST", "/api/ports", &maps())
}

fn maps() -> Value {
    let map = |port: u16| json!({ "hostPort": port, "vm": SUBJECT, "targetPort": 80 });
    json!({ "ports": [map(8080), map(8081)] })
}

fn ports(ground: &Ground) -> Vec<Value> {
    let listed = ground.get("/api/ports").expect("the agent answers").ok().json();
    listed["items"].as_array().cloned().unwrap_or_default()
}

fn unmap_port(ground: &Ground) -> Option<Answer> {
    let first = ports(ground).into_iter().next().expect("a port is mapped");
    let id = first["id"].as_str().expect("a map has an id").to_owned();
    ground.ask("DELETE", &format!("/api/ports/{id}"), &NOTHING)
}

/// The kernel has what is declared.
fn nothing_to_mend(ground: &Ground) {
    let restore = || ground.send("POST", "/api/ports/restore", b"");
    drop(restore());
    let again = restore().expect("the agent answers").ok().json();
    assert_eq!(again["mended"], json!([]), "{again}");
}

/// What of the events is kept has no gap, and old ones go as new ones come.
fn prune_again(ground: &Ground) {
    let numbers = || -> Vec<u64> {
        let page = ground.get("/api/events?follow=false&limit=1000").expect("the agent answers");
        let page = page.ok().json();
        let items = page["items"].as_array().unwrap_or_else(|| panic!("no items: {page}"));
        items.iter().map(|event| event["seq"].as_u64().unwrap()).collect()
    };
    let oldest = numbers()[0];
    let gone = wait::within(wait::PATIENCE, || {
        for _ in 0..100 {
            ground.send("POST", "/api/node/reload", b"").expect("the agent answers").ok();
        }
        (numbers()[0] > oldest).then_some(())
    });
    assert!(gone.is_some(), "no event ever goes: the oldest is {oldest}");
    let now = numbers();
    assert!(now.len() >= KEPT, "{} are kept", now.len());
    assert!(now.windows(2).all(|two| two[0] < two[1]), "{now:?}");
}

pub(crate) fn has_token(ground: &Ground, revoked: bool) -> bool {
    let list = ground.get("/api/tokens").expect("the agent answers").ok().json();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items.iter().any(|one| one["name"] == SUBJECT && one["revokedAt"].is_string() == revoked)
}

pub(crate) fn until_stopped(ground: &Ground) {
    wait::until("no VM runs", || {
        ground.vms().iter().all(|vm| vm["phase"] == "stopped").then_some(())
    });
}

fn create_token(ground: &Ground) -> Option<Answer> {
    ground.ask("POST", "/api/tokens", &json!({ "name": SUBJECT, "scope": "read" }))
}

fn revoke_token(ground: &Ground) -> Option<Answer> {
    ground.ask("DELETE", &format!("/api/tokens/{SUBJECT}"), &NOTHING)
}

fn drain(ground: &Ground, stop: bool) -> Option<Answer> {
    ground.ask("POST", "/api/node/drain", &json!({ "stopVms": stop }))
}

fn upgrade(ground: &Ground) -> Option<Answer> {
    ground.ask("POST", "/api/node/upgrade", &json!({}))
}

/// How often an agent has begun to serve; nothing while none answers.
fn times_served(ground: &Ground) -> usize {
    let Some(page) = ground.get("/api/events?follow=false&limit=1000") else { return 0 };
    let page = page.ok().json();
    let items = page["items"].as_array().cloned().unwrap_or_default();
    items.iter().filter(|event| event["kind"] == "agent-started").count()
}

fn hold(ground: &Ground) -> Option<Answer> {
    ground.ask("POST", "/api/node/guests/shutdown?timeout=60s", &NOTHING)
}

/// The 200th of the network that VMs are on which name none.
fn other_address(ground: &Ground) -> String {
    let network = ground.get("/api/networks/default").expect("the agent answers").json();
    let gateway = network["gateways"][0].as_str().unwrap();
    format!("{}.200", gateway.rsplit_once('.').unwrap().0)
}
