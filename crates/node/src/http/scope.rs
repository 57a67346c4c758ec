//! What each route asks of its caller: the one place that says so.
//!
//! A route without a row is served to nobody (`auth::check` refuses it), and
//! a test compares the rows with the OpenAPI document, so that none is
//! forgotten.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::http::Method;
use inn_domain::Scope;
use utoipa::openapi::{Content, PathItem, Ref, RefOr, ResponseBuilder};

/// What a request may be about, for callers that are limited to some VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Nothing that is any VM's.
    Free,
    /// The VM that the path names; another VM's is not there for them.
    Vm,
    /// All VMs, where the handler leaves out those that its caller does not
    /// see (`auth::sees`).
    Seen,
    /// The whole node: nothing for those who have some VMs only.
    Whole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    /// `None`: anybody, without credentials too.
    pub(super) scope: Option<Scope>,
    pub(super) reach: Reach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Known(Rule),
    /// The route takes other methods.
    NoMethod,
    /// The route is missing here: a fault of ours.
    NoRow,
}

type Row = (&'static str, &'static str, Option<Scope>, Reach);

/// Tells nothing about this node and does nothing.
const OPEN: Option<Scope> = None;
/// Shows no secret, and nothing from within a guest but figures and logs.
const READ: Option<Scope> = Some(Scope::Read);
/// Changes VMs and images, or enters a guest: what it runs, its files.
const OPERATE: Option<Scope> = Some(Scope::Operate);
/// Changes who may do what, or what the node is for.
const ADMIN: Option<Scope> = Some(Scope::Admin);

/// By path, as the router has it. GET holds for HEAD, too.
const ROWS: &[Row] = &[
    ("GET", "/health", OPEN, Reach::Free),
    ("GET", "/api/openapi.json", OPEN, Reach::Free),
    ("GET", "/swagger", OPEN, Reach::Free),
    ("GET", "/swagger/", OPEN, Reach::Free),
    ("GET", "/swagger/{*rest}", OPEN, Reach::Free),
    ("GET", "/api/node", READ, Reach::Seen),
    ("GET", "/api/node/snapshot", READ, Reach::Whole),
    ("GET", "/metrics", READ, Reach::Whole),
    ("GET", "/api/node/usage", READ, Reach::Whole),
    ("GET", "/api/node/usage/verify", READ, Reach::Whole),
    ("GET", "/api/node/resources", READ, Reach::Whole),
    ("GET", "/api/node/benchmark", READ, Reach::Whole),
    // It keeps the disk from everybody else for as long as it takes.
    ("POST", "/api/node/benchmark", ADMIN, Reach::Whole),
    ("GET", "/api/node/doctor", READ, Reach::Whole),
    ("POST", "/api/node/drain", ADMIN, Reach::Whole),
    ("POST", "/api/node/reap", ADMIN, Reach::Whole),
    ("POST", "/api/node/undrain", ADMIN, Reach::Whole),
    ("POST", "/api/node/reload", ADMIN, Reach::Whole),
    ("POST", "/api/node/upgrade", ADMIN, Reach::Whole),
    ("POST", "/api/node/guests/shutdown", ADMIN, Reach::Whole),
    ("POST", "/api/node/guests/start", ADMIN, Reach::Whole),
    ("GET", "/api/disk-images", READ, Reach::Free),
    ("POST", "/api/disk-images", OPERATE, Reach::Whole),
    ("DELETE", "/api/disk-images/{id}", OPERATE, Reach::Whole),
    ("GET", "/api/vms", READ, Reach::Seen),
    ("POST", "/api/vms", OPERATE, Reach::Whole),
    ("GET", "/api/vms/{vm}", READ, Reach::Vm),
    ("DELETE", "/api/vms/{vm}", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/start", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/stop", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/restart", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/pause", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/resume", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/snapshot", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/fork", OPERATE, Reach::Vm),
    ("GET", "/api/vms/{vm}/receipt", READ, Reach::Vm),
    ("GET", "/api/snapshots", READ, Reach::Whole),
    ("GET", "/api/snapshots/{snapshot}", READ, Reach::Whole),
    ("DELETE", "/api/snapshots/{snapshot}", OPERATE, Reach::Whole),
    // It has all that the VM's memory had.
    ("GET", "/api/snapshots/{snapshot}/export", OPERATE, Reach::Whole),
    ("POST", "/api/snapshots/import", OPERATE, Reach::Whole),
    ("POST", "/api/snapshots/{snapshot}/fork", OPERATE, Reach::Whole),
    // It takes a name among all images: see `http::vm_commit`.
    ("POST", "/api/vms/{vm}/commit", OPERATE, Reach::Vm),
    ("PATCH", "/api/vms/{vm}/limits", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/ttl", OPERATE, Reach::Vm),
    ("PUT", "/api/vms/{vm}/idle", OPERATE, Reach::Vm),
    ("PUT", "/api/vms/{vm}/policy", OPERATE, Reach::Vm),
    ("GET", "/api/vms/{vm}/ip", READ, Reach::Vm),
    ("PATCH", "/api/vms/{vm}/ip", OPERATE, Reach::Vm),
    ("GET", "/api/vms/{vm}/logs", READ, Reach::Vm),
    ("GET", "/api/vms/{vm}/stats", READ, Reach::Vm),
    ("GET", "/api/vms/{vm}/why", READ, Reach::Vm),
    // Its end deletes the VM.
    ("GET", "/api/vms/{vm}/lease", OPERATE, Reach::Vm),
    ("GET", "/api/vms/{vm}/console", OPERATE, Reach::Vm),
    ("GET", "/api/vms/{vm}/vnc", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/vnc", OPERATE, Reach::Vm),
    ("GET", "/api/vms/{vm}/exec", OPERATE, Reach::Vm),
    // Command lines are where people write passwords.
    ("GET", "/api/vms/{vm}/execs", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/execs", OPERATE, Reach::Vm),
    ("GET", "/api/vms/{vm}/execs/{exec}", OPERATE, Reach::Vm),
    ("DELETE", "/api/vms/{vm}/execs/{exec}", OPERATE, Reach::Vm),
    ("GET", "/api/vms/{vm}/execs/{exec}/attach", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/execs/{exec}/signal", OPERATE, Reach::Vm),
    ("GET", "/api/vms/{vm}/files", OPERATE, Reach::Vm),
    ("PUT", "/api/vms/{vm}/files", OPERATE, Reach::Vm),
    ("DELETE", "/api/vms/{vm}/files", OPERATE, Reach::Vm),
    ("GET", "/api/vms/{vm}/files/info", OPERATE, Reach::Vm),
    ("GET", "/api/vms/{vm}/files/list", OPERATE, Reach::Vm),
    ("GET", "/api/vms/{vm}/files/watch", OPERATE, Reach::Vm),
    ("GET", "/api/vms/{vm}/files/upload", OPERATE, Reach::Vm),
    ("DELETE", "/api/vms/{vm}/files/upload", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/files/mkdir", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/files/rename", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/files/symlink", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/files/attributes", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/guest/password", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/guest/hostname", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/guest/clock", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/guest/network", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/guest/freeze", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/guest/thaw", OPERATE, Reach::Vm),
    ("GET", "/api/vms/{vm}/guest/ssh-keys", OPERATE, Reach::Vm),
    ("PUT", "/api/vms/{vm}/guest/ssh-keys", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/guest/disk", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/guest/mount", OPERATE, Reach::Vm),
    ("POST", "/api/vms/{vm}/guest/unmount", OPERATE, Reach::Vm),
    ("GET", "/api/events", READ, Reach::Seen),
    ("GET", "/api/images", READ, Reach::Seen),
    ("GET", "/api/images/{name}", READ, Reach::Seen),
    ("GET", "/api/images/{name}/export", OPERATE, Reach::Whole),
    ("POST", "/api/images/import", OPERATE, Reach::Whole),
    ("POST", "/api/images/gc", OPERATE, Reach::Whole),
    ("POST", "/api/images/pull", OPERATE, Reach::Whole),
    ("DELETE", "/api/images/{name}", OPERATE, Reach::Whole),
    ("GET", "/api/networks", READ, Reach::Whole),
    ("POST", "/api/networks", ADMIN, Reach::Whole),
    ("GET", "/api/networks/{network}", READ, Reach::Whole),
    ("DELETE", "/api/networks/{network}", ADMIN, Reach::Whole),
    ("GET", "/api/node/network-plan", READ, Reach::Whole),
    ("GET", "/api/ports", READ, Reach::Seen),
    ("POST", "/api/ports", OPERATE, Reach::Whole),
    ("DELETE", "/api/ports/{port}", OPERATE, Reach::Whole),
    ("POST", "/api/ports/restore", OPERATE, Reach::Whole),
    ("GET", "/api/kernels", READ, Reach::Whole),
    ("PUT", "/api/kernels/default", ADMIN, Reach::Whole),
    ("GET", "/api/operations/{id}", READ, Reach::Whole),
    ("DELETE", "/api/operations/{id}", OPERATE, Reach::Whole),
    ("GET", "/api/tokens", ADMIN, Reach::Whole),
    ("POST", "/api/tokens", ADMIN, Reach::Whole),
    ("DELETE", "/api/tokens/{token}", ADMIN, Reach::Whole),
];

static RULES: LazyLock<HashMap<&'static str, Vec<(Method, Rule)>>> = LazyLock::new(|| {
    let mut rules: HashMap<_, Vec<_>> = HashMap::new();
    for (method, path, scope, reach) in ROWS {
        let method = Method::from_bytes(method.as_bytes()).expect("a method's name");
        let rule = Rule { scope: *scope, reach: *reach };
        rules.entry(*path).or_default().push((method, rule));
    }
    rules
});

/// What the route of this path, as the router has it, asks for.
pub(super) fn rule(method: &Method, path: &str) -> Verdict {
    let Some(methods) = RULES.get(path) else { return Verdict::NoRow };
    let method = if method == Method::HEAD { &Method::GET } else { method };
    match methods.iter().find(|(known, _)| known == method) {
        Some((_, rule)) => Verdict::Known(*rule),
        None => Verdict::NoMethod,
    }
}

/// Writes into the API's description what each operation asks of its caller,
/// and how those are answered of whom it asks too much.
pub(super) fn describe(path: &str, item: &mut PathItem) {
    let operations = [
        (Method::GET, &mut item.get),
        (Method::HEAD, &mut item.head),
        (Method::PUT, &mut item.put),
        (Method::POST, &mut item.post),
        (Method::PATCH, &mut item.patch),
        (Method::DELETE, &mut item.delete),
    ];
    for (method, operation) in operations {
        let (Some(operation), Verdict::Known(rule)) = (operation, rule(&method, path)) else {
            continue;
        };
        let mut answer = |status: &str, description: &str| {
            let body = || Ref::from_schema_name("Problem");
            let problem = Content::new(Some(body()));
            let response = ResponseBuilder::new()
                .description(description)
                .content("application/problem+json", problem)
                .build();
            let answers = &mut operation.responses.responses;
            answers.entry(status.to_owned()).or_insert_with(|| RefOr::T(response));
        };
        answer("429", "asked too often");
        // Over TCP the Host header may be somebody else's.
        answer("403", "not for this caller");
        let Some(scope) = rule.scope else { continue };
        answer("401", "no good credentials");
        let needs = format!("Needs the scope `{scope}`.");
        let text = operation.description.take().filter(|text| !text.is_empty());
        operation.description = Some(match text {
            Some(text) => format!("{text}\n\n{needs}"),
            None => needs,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is served and not described.
    const UNDESCRIBED: [&str; 4] =
        ["/api/openapi.json", "/swagger", "/swagger/", "/swagger/{*rest}"];

    #[test]
    fn every_described_operation_has_its_row_and_every_row_its_operation() {
        let document = serde_json::to_value(crate::openapi()).unwrap();
        let mut described = 0;
        for (path, operations) in document["paths"].as_object().unwrap() {
            for method in operations.as_object().unwrap().keys() {
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                let Verdict::Known(rule) = rule(&method, path) else {
                    panic!("{method} {path} has no row in http/scope.rs: who may ask it?");
                };
                let of_vm = path.starts_with("/api/vms/{vm}");
                assert_eq!(rule.reach == Reach::Vm, of_vm, "{method} {path}");
                let looks = matches!(method, Method::GET | Method::HEAD);
                assert!(looks || rule.scope >= OPERATE, "{method} {path} changes something");
                assert!(rule.scope.is_some() || path == "/health", "{method} {path}");
                // HEAD has GET's row.
                described += usize::from(method != Method::HEAD);
            }
        }
        let rows = ROWS.iter().filter(|(_, path, ..)| !UNDESCRIBED.contains(path)).count();
        assert_eq!(rows, described, "a row of a route that is no more");
        let all: usize = RULES.values().map(Vec::len).sum();
        assert_eq!(all, ROWS.len());
    }

    #[test]
    fn what_has_no_row_is_nobody_s() {
        assert_eq!(rule(&Method::GET, "/api/new"), Verdict::NoRow);
        assert_eq!(rule(&Method::DELETE, "/api/vms"), Verdict::NoMethod);
        let head = rule(&Method::HEAD, "/api/vms/{vm}/files");
        assert_eq!(head, Verdict::Known(Rule { scope: OPERATE, reach: Reach::Vm }));
        assert!(ADMIN > OPERATE && OPERATE > READ && READ > OPEN);
    }
}
