//! Every operation of the API, and by which deeds the matrix has it. One that
//! is in docs/openapi.json and not here fails the suite, so that nobody adds an
//! operation without having thought of its agent's death.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::deed::Deed;

enum Shown {
    By(&'static [Deed]),
    /// Makes nothing that could be left, on the host or in the state.
    NotNeeded(&'static str),
}

use Shown::{By, NotNeeded};

/// The guest alone changes; nothing is kept of it on the host.
const IN_THE_GUEST: Shown = NotNeeded("it is the guest's, who carries it out or does not");

const OPERATIONS: &[(&str, Shown)] = &[
    ("POST /api/images/import", By(&[Deed::Import])),
    ("POST /api/disk-images", By(&[Deed::PullDisk])),
    (
        "DELETE /api/disk-images/{id}",
        NotNeeded("a disk image without its record is none, and is removed"),
    ),
    ("POST /api/images/gc", By(&[Deed::CollectImages])),
    ("POST /api/images/pull", By(&[Deed::Pull])),
    ("DELETE /api/images/{name}", By(&[Deed::DeleteImage])),
    (
        "DELETE /api/operations/{id}",
        NotNeeded("it tells a piece of work to end, which lives in memory"),
    ),
    (
        "POST /api/vms",
        By(&[
            Deed::Create,
            Deed::MakeTemplate,
            Deed::TakeClone,
            Deed::CreatePersistent,
            Deed::CreateOnVsock,
            Deed::CreateFromDisk,
            Deed::Replace,
        ]),
    ),
    ("DELETE /api/vms/{vm}", By(&[Deed::Delete, Deed::DeleteKeepingDisk, Deed::DeletePurging])),
    ("POST /api/node/drain", By(&[Deed::Drain])),
    ("POST /api/node/benchmark", NotNeeded("its file has no name, and ends with the agent")),
    ("POST /api/node/undrain", By(&[Deed::Undrain])),
    ("POST /api/node/reload", NotNeeded("it reads, and changes the agent's memory alone")),
    ("POST /api/node/upgrade", By(&[Deed::Upgrade])),
    ("POST /api/node/guests/shutdown", By(&[Deed::HoldGuests])),
    ("POST /api/node/guests/start", By(&[Deed::ReleaseGuests])),
    ("PUT /api/kernels/default", NotNeeded("it is one row of the state, written whole or not")),
    ("POST /api/tokens", By(&[Deed::CreateToken])),
    ("DELETE /api/tokens/{token}", By(&[Deed::RevokeToken])),
    ("POST /api/node/reap", NotNeeded("it is what every start of the agent does")),
    (
        "PUT /api/vms/{vm}/idle",
        By(&[
            Deed::SetIdle,
            Deed::RestByPause,
            Deed::RestByStop,
            Deed::RestBySnapshot,
            Deed::WakeFromPause,
            Deed::WakeFromSnapshot,
        ]),
    ),
    ("POST /api/vms/{vm}/ttl", By(&[Deed::SetTtl, Deed::EndTtlByStop, Deed::EndTtlByDelete])),
    ("POST /api/vms/{vm}/start", By(&[Deed::Start])),
    ("POST /api/vms/{vm}/stop", By(&[Deed::Stop, Deed::StopByForce])),
    ("POST /api/vms/{vm}/restart", By(&[Deed::Restart])),
    ("POST /api/vms/{vm}/snapshot", By(&[Deed::TakeSnapshot])),
    ("POST /api/vms/{vm}/fork", By(&[Deed::Fork])),
    (
        "POST /api/snapshots/import",
        NotNeeded("what is not recorded is swept away, as of a snapshot that is taken"),
    ),
    ("DELETE /api/snapshots/{snapshot}", By(&[Deed::DeleteSnapshot])),
    ("POST /api/snapshots/{snapshot}/fork", By(&[Deed::TakeSnapshot])),
    ("POST /api/vms/{vm}/pause", By(&[Deed::Pause])),
    ("POST /api/vms/{vm}/resume", By(&[Deed::Resume])),
    ("POST /api/vms/{vm}/commit", By(&[Deed::Commit])),
    ("PATCH /api/vms/{vm}/limits", By(&[Deed::ChangeLimits])),
    ("PATCH /api/vms/{vm}/ip", By(&[Deed::ChangeAddress])),
    ("PUT /api/vms/{vm}/policy", By(&[Deed::ChangePolicy])),
    ("POST /api/networks", By(&[Deed::CreateNetwork])),
    ("DELETE /api/networks/{network}", By(&[Deed::DeleteNetwork])),
    ("POST /api/ports", By(&[Deed::MapPorts])),
    ("DELETE /api/ports/{port}", By(&[Deed::UnmapPorts])),
    ("POST /api/ports/restore", NotNeeded("it is what every start of the agent does")),
    ("GET /api/vms/{vm}/lease", By(&[Deed::RunLeased, Deed::EndLease])),
    ("GET /api/vms/{vm}/console", NotNeeded("it passes bytes on")),
    ("GET /api/vms/{vm}/vnc", NotNeeded("it passes bytes on")),
    ("POST /api/vms/{vm}/vnc", NotNeeded("its password is its VMM's, and kept nowhere")),
    ("GET /api/vms/{vm}/exec", By(&[Deed::Exec])),
    ("POST /api/vms/{vm}/execs", By(&[Deed::ExecDetached])),
    ("GET /api/vms/{vm}/execs/{exec}/attach", NotNeeded("it passes bytes on")),
    ("DELETE /api/vms/{vm}/execs/{exec}", IN_THE_GUEST),
    ("POST /api/vms/{vm}/execs/{exec}/signal", IN_THE_GUEST),
    ("PUT /api/vms/{vm}/files", By(&[Deed::CopyIn])),
    ("DELETE /api/vms/{vm}/files", IN_THE_GUEST),
    ("POST /api/vms/{vm}/files/attributes", IN_THE_GUEST),
    ("POST /api/vms/{vm}/files/mkdir", IN_THE_GUEST),
    ("POST /api/vms/{vm}/files/rename", IN_THE_GUEST),
    ("POST /api/vms/{vm}/files/symlink", IN_THE_GUEST),
    ("DELETE /api/vms/{vm}/files/upload", IN_THE_GUEST),
    ("POST /api/vms/{vm}/guest/clock", IN_THE_GUEST),
    ("POST /api/vms/{vm}/guest/disk", By(&[Deed::GrowDisk])),
    ("POST /api/vms/{vm}/guest/freeze", IN_THE_GUEST),
    ("POST /api/vms/{vm}/guest/hostname", IN_THE_GUEST),
    ("POST /api/vms/{vm}/guest/mount", IN_THE_GUEST),
    ("POST /api/vms/{vm}/guest/network", IN_THE_GUEST),
    ("POST /api/vms/{vm}/guest/password", IN_THE_GUEST),
    ("PUT /api/vms/{vm}/guest/ssh-keys", IN_THE_GUEST),
    ("POST /api/vms/{vm}/guest/thaw", IN_THE_GUEST),
    ("POST /api/vms/{vm}/guest/unmount", IN_THE_GUEST),
];

/// What changes something, and the WebSockets.
fn of_the_api() -> BTreeSet<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/openapi.json");
    let api: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut all = BTreeSet::new();
    for (path, methods) in api["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let writes = matches!(method.as_str(), "post" | "put" | "patch" | "delete");
            if writes || operation["responses"].get("101").is_some() {
                all.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    all
}

pub(crate) fn check(shown: &BTreeSet<Deed>) -> Result<(), String> {
    let api = of_the_api();
    let listed: BTreeSet<String> = OPERATIONS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut wrong: Vec<String> =
        api.difference(&listed).map(|name| format!("{name} is not listed")).collect();
    wrong.extend(listed.difference(&api).map(|name| format!("{name} is not in the API")));
    for (name, how) in OPERATIONS {
        match how {
            By(deeds) => {
                let unshown = deeds.iter().filter(|deed| !shown.contains(deed));
                wrong.extend(unshown.map(|deed| format!("{name}: {deed:?} has no case")));
            }
            NotNeeded(why) => assert!(!why.is_empty(), "{name} needs a reason"),
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let how = "docs/testing.md says how an operation gets its fail points";
    Err(format!("tests/kill/operations.rs; {how}:\n  {}", wrong.join("\n  ")))
}
