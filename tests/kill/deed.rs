//! The operations that an agent dies in: what they need, what is done, and
//! what comes of asking again.

use inn_fail_point::Point;
use inn_tests::api::Answer;
use inn_tests::process::Running;
use inn_tests::{host, leftovers, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::case::{CONVERGES_SLOWLY, unsettled};
use crate::ground::{Ground, Runtime};
use crate::of_node;

/// Of whose kind others are.
const FIRST: &str = "first-of-kind";

/// The VM that it is about.
pub(crate) const SUBJECT: &str = "subject";
/// One that runs all the time and has nothing to do with it.
pub(crate) const STEADY: &str = "steady";
/// One whose machine ends while no agent runs.
pub(crate) const LOST: &str = "lost";
/// One that hangs on a client.
const LEASED: &str = "leased";
pub(crate) const IMAGE: &str = "second";

/// No VM's: a file of it is nobody's.
const NOBODY: &str = "0badc0ffee";

/// Serves a machine's vsock.
pub(crate) const BRIDGE: &str = "vhost-device-vsock";

const GROWN: u64 = 96 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deed {
    Create,
    CreatePersistent,
    CreateOnVsock,
    CreateFromDisk,
    Replace,
    Start,
    Stop,
    StopByForce,
    Restart,
    Pause,
    Resume,
    TakeSnapshot,
    DeleteSnapshot,
    Fork,
    MakeTemplate,
    TakeClone,
    Delete,
    DeleteKeepingDisk,
    DeletePurging,
    GrowDisk,
    RunLeased,
    EndLease,
    Exec,
    ExecDetached,
    CopyIn,
    CopyOut,
    Import,
    Pull,
    PullDisk,
    Commit,
    DeleteImage,
    CollectImages,
    FirstStart,
    StartAgain,
    StartAfterHang,
    StartBesideStray,
    StartWithoutDomain,
    EndAgent,
    Upgrade,
    ChangeLimits,
    CreateNetwork,
    DeleteNetwork,
    MapPorts,
    UnmapPorts,
    ChangePolicy,
    ChangeAddress,
    SetTtl,
    EndTtlByStop,
    EndTtlByDelete,
    SetIdle,
    RestByPause,
    RestByStop,
    RestBySnapshot,
    WakeFromPause,
    WakeFromSnapshot,
    CreateToken,
    RevokeToken,
    PruneEvents,
    Drain,
    Undrain,
    HoldGuests,
    ReleaseGuests,
}

/// What has become of it when another agent has put things in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// The VM is not there.
    Absent,
    /// It runs.
    Running,
    /// It runs, and its machine is the one from before.
    Same,
    /// It runs, and its machine is another than before.
    Anew,
    Stopped,
    /// It stands still, on the machine from before.
    Paused,
    ImageAbsent,
    ImagePresent,
    /// The agent serves.
    Serving,
    /// The token is known.
    TokenThere,
    TokenRevoked,
    /// No VM runs.
    AllStopped,
    /// The node takes VMs.
    Undrained,
}

impl After {
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Absent => "not there",
            Self::Running => "running",
            Self::Same => "running on",
            Self::Anew => "running anew",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
            Self::ImageAbsent => "no image",
            Self::ImagePresent => "image there",
            Self::Serving => "serving",
            Self::TokenThere => "token there",
            Self::TokenRevoked => "token revoked",
            Self::AllStopped => "all stopped",
            Self::Undrained => "not drained",
        }
    }
}

/// In a simulated machine.
fn beside(mut more: Value) -> Value {
    more["runtime"] = json!("sim");
    more["kernel"] = Value::Null;
    more
}

impl Deed {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::CreatePersistent => "create --persist",
            Self::CreateOnVsock => "create with a vsock",
            Self::CreateFromDisk => "create from a disk image",
            Self::Replace => "create --replace",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::StopByForce => "stop --force",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::TakeSnapshot => "snapshot",
            Self::DeleteSnapshot => "delete snapshot",
            Self::Fork => "fork",
            Self::MakeTemplate => "make a template",
            Self::TakeClone => "create from a clone that waits",
            Self::Delete => "delete",
            Self::DeleteKeepingDisk => "delete --keep-disk",
            Self::DeletePurging => "delete --purge-persist",
            Self::GrowDisk => "grow disk",
            Self::RunLeased => "run --rm",
            Self::EndLease => "end of run --rm",
            Self::Exec => "exec",
            Self::ExecDetached => "exec --detach",
            Self::CopyIn => "copy in",
            Self::CopyOut => "copy out",
            Self::Import => "import",
            Self::Pull => "pull",
            Self::PullDisk => "pull of a disk image",
            Self::Commit => "commit",
            Self::DeleteImage => "delete image",
            Self::CollectImages => "collect images",
            Self::FirstStart => "first start",
            Self::StartAgain => "start again",
            Self::StartAfterHang => "start beside a VMM that hangs",
            Self::StartBesideStray => "start beside VMMs without run directories",
            Self::StartWithoutDomain => "start after a domain was undefined",
            Self::EndAgent => "end of the agent",
            Self::Upgrade => "upgrade of the agent",
            Self::ChangeLimits => "change limits",
            Self::CreateNetwork => "create a network",
            Self::DeleteNetwork => "delete a network",
            Self::MapPorts => "map ports",
            Self::UnmapPorts => "unmap a port",
            Self::ChangePolicy => "change a policy",
            Self::ChangeAddress => "change an address",
            Self::SetTtl => "set a time to live",
            Self::EndTtlByStop => "end of a time to live, by a stop",
            Self::EndTtlByDelete => "end of a time to live, by a delete",
            Self::SetIdle => "set what becomes of an idle VM",
            Self::RestByPause => "rest of an idle VM, by a pause",
            Self::RestByStop => "rest of an idle VM, by a stop",
            Self::RestBySnapshot => "rest of an idle VM, its memory saved",
            Self::WakeFromPause => "wake a VM that rests",
            Self::WakeFromSnapshot => "wake a VM whose memory was saved",
            Self::CreateToken => "create a token",
            Self::RevokeToken => "revoke a token",
            Self::PruneEvents => "prune events",
            Self::Drain => "drain and stop VMs",
            Self::Undrain => "undrain",
            Self::HoldGuests => "shut guests down",
            Self::ReleaseGuests => "start guests again",
        }
    }

    /// Whether it is an agent's start beside what others have left it.
    const fn begins_with_ruins(self) -> bool {
        matches!(
            self,
            Self::StartAgain
                | Self::StartAfterHang
                | Self::StartBesideStray
                | Self::StartWithoutDomain
        )
    }

    /// Whether there is an agent's life before.
    pub(crate) const fn has_past(self) -> bool {
        !matches!(self, Self::FirstStart)
    }

    /// Whether it is about every VM, so that none goes on as it was.
    pub(crate) const fn is_about_all(self) -> bool {
        matches!(self, Self::Drain | Self::HoldGuests | Self::ReleaseGuests)
    }

    /// What the VM is made of that it begins with; `None`: it begins without.
    fn subject(self) -> Option<Value> {
        match self {
            Self::Replace
            | Self::Stop
            | Self::StopByForce
            | Self::Restart
            | Self::Pause
            | Self::Resume
            | Self::TakeSnapshot
            | Self::DeleteSnapshot
            | Self::Fork
            | Self::Delete
            | Self::DeleteKeepingDisk
            | Self::GrowDisk
            | Self::Exec
            | Self::ExecDetached
            | Self::CopyIn
            | Self::CopyOut
            | Self::Commit
            | Self::ChangeLimits
            | Self::CreateNetwork
            | Self::DeleteNetwork
            | Self::MapPorts
            | Self::UnmapPorts
            | Self::ChangePolicy
            | Self::ChangeAddress
            | Self::SetTtl
            | Self::EndTtlByStop
            | Self::EndTtlByDelete
            | Self::SetIdle
            | Self::RestByPause
            | Self::RestByStop
            | Self::RestBySnapshot
            | Self::WakeFromPause
            | Self::WakeFromSnapshot
            | Self::Upgrade
            | Self::Drain
            | Self::HoldGuests
            | Self::ReleaseGuests => Some(json!({})),
            Self::Start | Self::Undrain => Some(json!({ "start": false })),
            Self::DeletePurging => Some(json!({ "persist": true })),
            _ => None,
        }
    }

    /// The life before: two VMs at once, where a boot takes its time.
    pub(crate) fn prepare(self, ground: &Ground) {
        let mut wanted = vec![(STEADY, json!({}))];
        wanted.extend(self.subject().map(|more| (SUBJECT, more)));
        if self.begins_with_ruins() {
            // One whose vsock has a process of its own, where there is any.
            let bridged = ground.runtime == Runtime::Qemu && host::finds_program(BRIDGE);
            let more = if bridged { json!({ "channel": "vsock" }) } else { json!({}) };
            wanted.push((LOST, more));
        }
        std::thread::scope(|scope| {
            for (name, more) in wanted {
                scope.spawn(move || {
                    // A boot under such a KVM may take a minute, and what has
                    // nothing to do with it need not have one.
                    let is_beside = ground.runtime.has_kvm_guests() && name != SUBJECT;
                    let more = if is_beside { beside(more) } else { more };
                    let answer = ground.create(name, &more).expect("the agent answers").ok();
                    let phase = answer.json()["phase"].clone();
                    // Whoever is not up yet is waited for below.
                    let settled = matches!(answer.status, 201 | 202) && phase != "failed";
                    assert!(settled, "{name} is {phase}: {}", answer.json());
                });
            }
        });
        let settled =
            wait::within(CONVERGES_SLOWLY, || unsettled(&ground.vms()).is_empty().then_some(()));
        assert!(settled.is_some(), "not up: {:?}", ground.vms());
        if matches!(self, Self::DeleteImage | Self::CollectImages) {
            assert_eq!(ground.import(IMAGE).unwrap()["state"], "succeeded");
        }
        if self == Self::CollectImages {
            ground.age_image(IMAGE);
        }
        of_node::prepare(self, ground);
    }

    /// After the death of that agent and before the start of the one that dies.
    pub(crate) fn ruin(self, ground: &Ground, before: &[Value]) {
        if !self.begins_with_ruins() {
            return;
        }
        // A machine that was not recorded, and a lease that nobody ended.
        let mut agent = ground.start_armed("launch.done:2");
        assert!(ground.until_serves(&mut agent), "the agent died too early");
        let mut client = ground.run_leased(LEASED);
        wait::until("the leased VM runs", || {
            assert!(!client.has_ended(), "{}", "the client ended too early");
            let vms = ground.vms();
            vms.iter().any(|vm| vm["name"] == LEASED && vm["phase"] == "running").then_some(())
        });
        assert!(ground.create(SUBJECT, &json!({})).is_none(), "the agent lives");
        ground.until_dead(agent, Point::LaunchDone);
        client.wait(wait::PATIENCE);
        // A machine that ends meanwhile, or hangs, and what is nobody's.
        let lost = before.iter().find(|vm| vm["name"] == LOST).expect("it was made");
        let run_dir = ground.host.run_dir().join("vms");
        match (ground.runtime, lost["pid"].as_i64()) {
            // All but the one that runs all the time.
            (Runtime::Qemu, Some(_)) if self == Self::StartBesideStray => {
                let steady = before.iter().find(|vm| vm["name"] == STEADY).expect("it was made");
                for id in leftovers::entries_of(&run_dir).iter().filter(|id| steady["id"] != **id) {
                    std::fs::remove_dir_all(run_dir.join(id)).unwrap();
                }
            }
            (Runtime::Qemu | Runtime::Libvirt, Some(pid)) => {
                let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
                let hangs = self == Self::StartAfterHang;
                kill_process(pid, if hangs { Signal::STOP } else { Signal::KILL }).unwrap();
                if !hangs {
                    wait::until("the machine is gone", || {
                        let all = leftovers::machines_of(ground.host.path());
                        all.iter()
                            .all(|p| i64::from(p.pid) != i64::from(pid.as_raw_pid()))
                            .then_some(())
                    });
                }
                if self == Self::StartWithoutDomain {
                    let libvirtd = ground.libvirtd.as_ref().expect("it is libvirt's");
                    let domain = format!("inn-{}", lost["id"].as_str().unwrap());
                    wait::until("libvirt has seen it end", || {
                        libvirtd.virsh(&["domstate", &domain])?.contains("shut off").then_some(())
                    });
                    libvirtd.virsh(&["undefine", &domain]).expect("the domain is undefined");
                }
            }
            _ => {
                let state = run_dir.join(lost["id"].as_str().unwrap()).join("sim.state");
                std::fs::remove_file(state).unwrap();
            }
        }
        for dir in [ground.host.data().join("vms").join(NOBODY), run_dir.join(NOBODY)] {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("disk"), "nobody's").unwrap();
        }
        let persist = ground.host.data().join("persist");
        std::fs::write(persist.join(format!(".{NOBODY}.new")), "nobody's").unwrap();
    }

    /// Does it with an agent that will not live to see the end.
    pub(crate) fn perform(self, ground: &Ground, agent: &mut Running) {
        if self == Self::FirstStart || self.begins_with_ruins() {
            return;
        }
        assert!(ground.until_serves(agent), "the agent died at its start");
        // Whose guest is still looked for is ended without being asked.
        wait::until("the guests are found again", || {
            assert!(!agent.has_ended(), "{}", "the agent died at its start");
            unsettled(&ground.vms()).is_empty().then_some(())
        });
        match self {
            Self::RunLeased => {
                let client = ground.run_leased(LEASED);
                client.wait(wait::PATIENCE);
            }
            Self::EndLease => {
                let client = leased_and_running(ground);
                client.signal(Signal::KILL);
                client.wait(wait::PATIENCE);
            }
            Self::EndAgent => {
                let client = leased_and_running(ground);
                agent.signal(Signal::TERM);
                client.wait(wait::PATIENCE);
            }
            Self::Exec => {
                let exec = ground.host.inn(["vm", "exec", SUBJECT, "--", "sleep", "0.1"]);
                let mut exec = exec.start();
                // It would wait for the next agent and take its command up.
                wait::until("the command or its agent has ended", || {
                    (exec.has_ended() || agent.has_ended()).then_some(())
                });
                exec.signal(Signal::KILL);
                exec.wait(wait::PATIENCE);
            }
            Self::TakeClone => {
                if let Some(first) = ground.create(FIRST, &json!({})) {
                    first.ok();
                }
                let now = || ground.get("/api/node/snapshot").map(|now| now.json());
                let waits = wait::within(wait::PATIENCE, || {
                    let waits = now().is_some_and(|now| now["pool"]["waiting"] != 0);
                    (waits || agent.has_ended()).then_some(())
                });
                assert!(waits.is_some(), "no clone waits: {:?}", now());
                self.ask(ground);
            }
            Self::Import => drop(ground.import(IMAGE)),
            Self::Pull => drop(ground.pull(IMAGE)),
            Self::PruneEvents => of_node::fill_events(ground),
            _ => drop(self.ask(ground)),
        }
    }

    /// Those that are one request.
    fn ask(self, ground: &Ground) -> Option<Answer> {
        let vm = |rest: &str| format!("/api/vms/{SUBJECT}{rest}");
        let nothing = Value::Null;
        match self {
            // Another size than there is an empty disk of.
            Self::Create | Self::MakeTemplate => {
                ground.create(SUBJECT, &json!({ "diskBytes": 48 << 20 }))
            }
            Self::TakeClone => ground.create(SUBJECT, &json!({})),
            Self::CreatePersistent => ground.create(SUBJECT, &json!({ "persist": true })),
            Self::CreateOnVsock => ground.create(SUBJECT, &json!({ "channel": "vsock" })),
            Self::PullDisk => {
                let disk = ground.host.home().join("pulled.img");
                std::fs::write(&disk, vec![7; 1 << 20]).unwrap();
                let body = json!({ "url": format!("file://{}", disk.display()) });
                ground.ask("POST", "/api/disk-images?wait=60s", &body)
            }
            Self::CreateFromDisk => {
                let disk = ground.host.home().join("disk.img");
                std::fs::write(&disk, vec![7; 1 << 20]).unwrap();
                let url = format!("file://{}", disk.display());
                let body = ground.create_body(SUBJECT, &json!({ "diskImage": { "url": url } }));
                let mut body = body;
                for key in ["image", "command"] {
                    body.as_object_mut().unwrap().remove(key);
                }
                ground.ask("POST", "/api/vms?wait=120s", &body)
            }
            Self::Replace => ground.create(SUBJECT, &json!({ "replace": true })),
            Self::Start => ground.ask("POST", &vm("/start?wait=120s"), &nothing),
            Self::Stop => ground.ask("POST", &vm("/stop?wait=120s"), &nothing),
            Self::StopByForce => ground.ask("POST", &vm("/stop?force=true&wait=120s"), &nothing),
            Self::Restart => ground.ask("POST", &vm("/restart?wait=120s"), &nothing),
            Self::Delete => ground.ask("DELETE", &vm("?wait=120s"), &nothing),
            Self::DeleteKeepingDisk => {
                ground.ask("DELETE", &vm("?keepDisk=true&wait=120s"), &nothing)
            }
            Self::DeletePurging => {
                ground.ask("DELETE", &vm("?purgePersist=true&wait=120s"), &nothing)
            }
            Self::GrowDisk => {
                ground.ask("POST", &vm("/guest/disk"), &json!({ "diskBytes": GROWN }))
            }
            Self::ExecDetached => {
                ground.ask("POST", &vm("/execs"), &json!({ "command": ["sleep", "1000000"] }))
            }
            Self::CopyIn => ground.send("PUT", &vm("/files?path=/root/copy"), &content()),
            Self::CopyOut => ground.get(&vm("/files?path=/etc/marker")),
            Self::Commit => ground.ask("POST", &vm("/commit?wait=120s"), &json!({ "name": IMAGE })),
            Self::DeleteImage => ground.ask("DELETE", &format!("/api/images/{IMAGE}"), &nothing),
            Self::CollectImages => {
                ground.ask("POST", "/api/images/gc", &json!({ "maxAgeSeconds": 86_400 }))
            }
            _ => of_node::ask(self, ground),
        }
    }

    /// A client that got no answer asks again, and gets what it wants.
    pub(crate) fn ask_again(self, ground: &Ground) {
        let there = || ground.vm(SUBJECT).is_some();
        let ok = |answer: Option<Answer>| answer.expect("the agent answers").ok();
        match self {
            Self::FirstStart | Self::EndAgent => {}
            _ if self.begins_with_ruins() => {
                let lost =
                    ground.ask("POST", &format!("/api/vms/{LOST}/start?wait=120s"), &Value::Null);
                let lost = ok(lost).json();
                assert_eq!(lost["phase"], "running", "{lost}");
            }
            Self::RunLeased | Self::EndLease => {
                let args = ["run", "--rm", "--network", "none", "--runtime", ground.runtime.name()];
                ground.host.inn(args).args(["--memory", "128MiB", "mini", "--", "true"]).ok();
            }
            Self::Exec => {
                ground.host.inn(["vm", "exec", SUBJECT, "--", "true"]).ok();
                let execs = ok(ground.get(&format!("/api/vms/{SUBJECT}/execs"))).json();
                let all = execs["items"].as_array().unwrap();
                // What hung on the dead agent has ended, whoever may still come
                // for its result.
                let running = all.iter().filter(|exec| exec["running"] == true).count();
                assert!(running <= 1, "execs are left: {execs}");
            }
            Self::Import => {
                assert_eq!(ground.import(IMAGE).unwrap()["state"], "succeeded");
            }
            Self::Pull => {
                assert_eq!(ground.pull(IMAGE).unwrap()["state"], "succeeded");
                ground.assert_no_partial_downloads();
            }
            Self::PullDisk => {
                let pulled = ok(self.ask(ground)).json();
                assert_eq!(pulled["state"], "succeeded", "{pulled}");
                let there = ok(ground.get("/api/disk-images")).json();
                assert_eq!(there["items"].as_array().unwrap().len(), 1, "{there}");
            }
            Self::Commit => {
                let made = ok(self.ask(ground)).json();
                assert_eq!(made["state"], "succeeded", "{made}");
            }
            Self::DeleteImage => {
                let answer = self.ask(ground).expect("the agent answers");
                assert!(answer.is_success() || answer.status == 404, "{answer:?}");
                assert_eq!(ground.images(), ["mini"]);
            }
            Self::CollectImages => {
                ok(self.ask(ground));
                // A VM runs from the one that stays.
                assert_eq!(ground.images(), ["mini"]);
            }
            Self::Create | Self::CreatePersistent | Self::CreateOnVsock | Self::CreateFromDisk
                if there() =>
            {
                // By its key it is known that this is done.
                let made = ground.vm(SUBJECT).unwrap()["id"].clone();
                assert_eq!(ok(self.ask(ground)).json()["id"], made, "another VM");
            }
            Self::Delete | Self::DeleteKeepingDisk | Self::DeletePurging if !there() => {}
            Self::GrowDisk => {
                let answer = self.ask(ground).expect("the agent answers");
                // A simulated guest has no file system to grow after the disk.
                assert!(answer.is_success() || ground.runtime == Runtime::Sim, "{answer:?}");
                assert_eq!(ground.vm(SUBJECT).unwrap()["diskBytes"], GROWN);
            }
            Self::EndTtlByDelete if !there() => {}
            Self::ChangeLimits
            | Self::CreateNetwork
            | Self::DeleteNetwork
            | Self::MapPorts
            | Self::UnmapPorts
            | Self::ChangePolicy
            | Self::ChangeAddress
            | Self::Upgrade
            | Self::SetTtl
            | Self::EndTtlByStop
            | Self::SetIdle
            | Self::RestByPause
            | Self::RestByStop
            | Self::RestBySnapshot
            | Self::WakeFromPause
            | Self::WakeFromSnapshot
            | Self::CreateToken
            | Self::RevokeToken
            | Self::PruneEvents
            | Self::Drain
            | Self::Undrain
            | Self::HoldGuests
            | Self::Pause
            | Self::Resume
            | Self::TakeSnapshot
            | Self::DeleteSnapshot
            | Self::Fork
            | Self::ReleaseGuests => of_node::ask_again(self, ground),
            Self::CopyIn => {
                ok(self.ask(ground));
                let path = format!("/api/vms/{SUBJECT}/files?path=/root/copy");
                assert!(ok(ground.get(&path)).body == content(), "another content");
                let list = ground.host.inn(["vm", "exec", SUBJECT, "--", "ls", "-A", "/root"]).ok();
                assert_eq!(list, "copy\n", "half a copy is left");
            }
            _ => drop(ok(self.ask(ground))),
        }
        if self == Self::DeleteKeepingDisk {
            let kept = leftovers::entries_of(&ground.host.data().join("kept"));
            assert_eq!(kept.len(), 1, "kept: {kept:?}");
        }
        if self == Self::DeletePurging {
            let disks = leftovers::entries_of(&ground.host.data().join("persist"));
            assert!(disks.is_empty(), "not purged: {disks:?}");
        }
    }
}

fn leased_and_running(ground: &Ground) -> Running {
    let mut client = ground.run_leased(LEASED);
    wait::until("the leased VM runs", || {
        if client.has_ended() {
            return Some(());
        }
        let list = ground.get("/api/vms")?.json();
        let vms = list["items"].as_array()?;
        vms.iter().any(|vm| vm["name"] == LEASED && vm["phase"] == "running").then_some(())
    });
    client
}

fn content() -> Vec<u8> {
    (0..1u32 << 18).flat_map(u32::to_le_bytes).collect()
}
