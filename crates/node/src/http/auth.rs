//! Who asks, and whether they may: by uid on the unix socket, by token over
//! TCP, and by the table in `scope.rs`.

use std::net::{IpAddr, SocketAddr};

use axum::extract::connect_info::Connected;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{ConnectInfo, MatchedPath, RawPathParams, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use inn_api::Code;
use inn_domain::Scope;
use inn_units::VmId;
use tokio::net::{TcpListener, UnixListener};

use super::audit;
use super::problem::{self, Failed, find_vm};
use super::scope::{self, Reach, Rule, Verdict};
use super::serve::Gate;
use crate::access::{Principal, Who};

/// Whose group may operate the node: whoever is in it can start a VM as the
/// agent's user, so it is as good as root.
pub(super) const GROUP: &str = "innkeeper";

tokio::task_local! {
    /// Whose request this task is at work for.
    static ASKING: Principal;
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// `None` when the kernel does not say.
    Unix {
        uid: Option<u32>,
    },
    Tcp,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self::Unix { uid: stream.io().peer_cred().ok().map(|cred| cred.uid()) }
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(_: IncomingStream<'_, TcpListener>) -> Self {
        Self::Tcp
    }
}

/// Runs after the router has found the route.
pub(super) async fn check(
    State(gate): State<Gate>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    path: Option<MatchedPath>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let principal = match peer {
        Peer::Unix { uid } => by_uid(&gate, uid),
        Peer::Tcp => by_token(&gate, &request),
    };
    let (principal, why) = match principal {
        Ok(principal) => principal,
        Err(failed) => return failed.into_response(),
    };
    let rule = match admit(&principal, why, path.as_ref(), &request) {
        Ok(rule) => rule,
        Err(failed) => {
            let mut response = failed.into_response();
            // The audit has refusals, too.
            response.extensions_mut().insert(principal);
            return response;
        }
    };
    request.extensions_mut().insert(principal.clone());
    audit::asked_by(&mut request, &principal);
    let asked = async move {
        if let (Ok(params), Some(Rule { reach: Reach::Vm, .. })) = (&params, rule)
            && let Err(failed) = reaches(&gate, params)
        {
            return failed.into_response();
        }
        next.run(request).await
    };
    ASKING.scope(principal, asked).await
}

/// Whether whoever's request is at work in this task sees the VM. Outside of
/// requests nobody sees anything.
pub(super) fn sees(vm: VmId) -> bool {
    ASKING.try_with(|principal| principal.sees(vm)).unwrap_or(false)
}

/// Whether the route is there for them. `why` is for those who are nobody.
fn admit(
    principal: &Principal,
    why: Option<Failed>,
    path: Option<&MatchedPath>,
    request: &Request,
) -> Result<Option<Rule>, Failed> {
    let known = |rule| if principal.scope.is_some() { Ok(rule) } else { Err(refusal(why)) };
    // What is not there is said to those who may know.
    let Some(path) = path else { return known(None) };
    let method = request.method();
    match scope::rule(method, path.as_str()) {
        Verdict::Known(rule @ Rule { scope: None, .. }) => Ok(Some(rule)),
        Verdict::Known(rule @ Rule { scope: Some(needed), .. }) => {
            known(Some(rule))?;
            may(principal, needed, rule.reach)?;
            Ok(Some(rule))
        }
        Verdict::NoMethod => {
            known(None)?;
            Err(problem::method_not_allowed(method, request.uri()))
        }
        Verdict::NoRow => {
            known(None)?;
            tracing::error!(%method, path = path.as_str(), "nothing says who may ask this");
            let detail = "nothing says who may ask this, which is a fault of this agent's";
            Err(Failed::new(Code::Forbidden, detail))
        }
    }
}

fn refusal(why: Option<Failed>) -> Failed {
    why.unwrap_or_else(|| Failed::new(Code::Unauthorized, "a bearer token is needed"))
}

fn may(principal: &Principal, needed: Scope, reach: Reach) -> Result<(), Failed> {
    if !principal.may(needed) {
        let has = principal.scope.map_or("none", Scope::as_str);
        let way = match principal.who {
            Who::Token { .. } => "; `inn token create` makes a token that may",
            _ => "; root and the agent's own user may do everything",
        };
        let detail = format!("this needs the scope {needed}, and {} has {has}{way}", principal.who);
        return Err(Failed::new(Code::Forbidden, detail));
    }
    if reach == Reach::Whole && principal.is_limited() {
        let detail = format!(
            "{} is limited to some VMs, and this is about the whole node; a token without --vm may",
            principal.who
        );
        return Err(Failed::new(Code::Forbidden, detail));
    }
    Ok(())
}

/// Whether there is, for them, such a VM. Handlers find it once more, by
/// `find_vm` and with the same answer or, when its name has passed on to
/// another VM meanwhile, with the answer that is right by then.
fn reaches(gate: &Gate, params: &RawPathParams) -> Result<(), Failed> {
    let name = params.iter().find(|(key, _)| *key == "vm").map_or("", |(_, value)| value);
    find_vm(&gate.node.vms, name).map(drop)
}

/// Who is at a socket's other end; a nobody with the reason why. Only root,
/// ourselves and, where the socket is that group's, its members get as far as
/// to connect (unix(7): write permission on the socket).
fn by_uid(gate: &Gate, uid: Option<u32>) -> Result<(Principal, Option<Failed>), Failed> {
    let scope = uid.and_then(|uid| scope_of(uid, gate.group_may_connect));
    match (uid, scope) {
        (Some(uid), Some(_)) => {
            let who = Who::User { uid, name: gate.users.name(uid) };
            Ok((Principal { who, scope, vms: None }, None))
        }
        _ => Err(Failed::new(
            Code::Forbidden,
            format!("only root, the agent's user and the group {GROUP} may use this socket"),
        )),
    }
}

fn scope_of(uid: u32, group_may_connect: bool) -> Option<Scope> {
    let own = rustix::process::geteuid().as_raw();
    if uid == 0 || uid == own {
        return Some(Scope::Admin);
    }
    group_may_connect.then_some(Scope::Operate)
}

/// Whose token this is; a nobody with the reason why.
fn by_token(gate: &Gate, request: &Request) -> Result<(Principal, Option<Failed>), Failed> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(|host| names_us(host, gate.listens_at)) {
        // A page of somebody else's that a browser was led to believe is ours.
        return Err(Failed::new(
            Code::Forbidden,
            "the Host header names neither localhost nor the address that api_listen names",
        ));
    }
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let why = match token {
        Some(token) => match gate.node.tokens.principal(token, jiff::Timestamp::now()) {
            Some((principal, _)) => return Ok((principal, None)),
            None => "the bearer token is not a good one: `inn token list` shows which ones are revoked or \
                     expired"
                .to_owned(),
        },
        None => format!(
            "a bearer token is needed; the first one is in {}",
            gate.node.config.paths.token().display()
        ),
    };
    Ok((Principal::NOBODY, Some(Failed::new(Code::Unauthorized, why))))
}

fn names_us(host: &str, listens_at: Option<SocketAddr>) -> bool {
    // The port, if any, comes last; in an IPv6 literal colons stand in brackets.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let Ok(ip) = bare.parse::<IpAddr>() else { return false };
    // Names can be made to lead anywhere, addresses cannot.
    ip.is_loopback() || listens_at.is_some_and(|at| at.ip() == ip || at.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_anybody_s_are_not_ours() {
        let local = Some("127.0.0.1:5100".parse().unwrap());
        for host in ["localhost", "LOCALHOST:5100", "127.0.0.1:5100", "[::1]:5100", "127.0.0.1"] {
            assert!(names_us(host, local), "{host}");
        }
        for host in ["evil.example", "evil.example:5100", "10.0.0.1:5100", "", "localhost.evil:80"]
        {
            assert!(!names_us(host, local), "{host}");
        }
        let all = Some("0.0.0.0:5100".parse().unwrap());
        assert!(names_us("10.0.0.1:5100", all));
        assert!(!names_us("node.example:5100", all));
        let one = Some("10.0.0.2:5100".parse().unwrap());
        assert!(names_us("10.0.0.2:5100", one) && !names_us("10.0.0.3:5100", one));
    }

    #[test]
    fn other_users_are_refused_unless_the_socket_is_their_group_s() {
        let own = rustix::process::geteuid().as_raw();
        let other = own + 12_345;
        for admin in [own, 0] {
            assert_eq!(scope_of(admin, false), Some(Scope::Admin));
            assert_eq!(scope_of(admin, true), Some(Scope::Admin));
        }
        assert_eq!(scope_of(other, false), None);
        assert_eq!(scope_of(other, true), Some(Scope::Operate));
    }

    #[tokio::test]
    async fn outside_of_requests_nobody_sees_anything() {
        let vm = VmId::from_bytes([1; 5]);
        assert!(!sees(vm));
        let admin = Principal { scope: Some(Scope::Admin), ..Principal::NOBODY };
        assert!(ASKING.scope(admin, async { sees(vm) }).await);
        assert!(!ASKING.scope(Principal::NOBODY, async { sees(vm) }).await);
    }
}
