//! Who asks, and whether they may: by uid on the unix socket, by token over
//! TCP, and by the table in `scope.rs`.

use std::net::{IpAddr, SocketAddr};

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{ConnectInfo, MatchedPath, RawPathParams, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use inn_api::Code;
use inn_domain::Scope;
use inn_units::{TokenId, VmId};
use tokio_util::sync::CancellationToken;

use super::connections::PeerKey;
use super::idempotency;
use super::limits;
use super::problem::{self, Failed, find_vm};
use super::scope::{self, Reach, Rule, Verdict};
use super::serve::Gate;
use super::until::until;
use super::{audit, bearer};
use crate::access::{Principal, TokenEnd, Who};
use crate::config::AccessConfig;

/// Whose group may operate the node: whoever is in it can start a VM as the
/// agent's user, so it is as good as root.
pub(crate) const GROUP: &str = "innkeeper";

tokio::task_local! {
    /// Whose request this task is at work for.
    static ASKING: Principal;
}

/// Who is at a connection's other end, as far as the connection tells.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) way: Way,
    /// Ends the connection, whatever it has become.
    pub(super) cut: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `None` when the kernel does not say.
    Unix { uid: Option<u32> },
    Tcp {
        address: IpAddr,
        /// Of a client that has shown one which its authority has signed.
        certificate: Option<TokenId>,
    },
}

impl Peer {
    pub(super) fn new(way: Way) -> Self {
        Self { way, cut: CancellationToken::new() }
    }

    pub(super) fn key(&self) -> PeerKey {
        match self.way {
            Way::Unix { uid } => PeerKey::Uid(uid.unwrap_or(u32::MAX)),
            Way::Tcp { address, .. } => PeerKey::of(address),
        }
    }

    /// Root and ourselves, on the unix socket.
    pub(super) fn owns_the_host(&self) -> bool {
        matches!(self.way, Way::Unix { uid: Some(uid) } if is_owner(uid))
    }
}

/// Whoever a request is of, or why it is nobody's.
struct Caller {
    principal: Principal,
    /// Of the token, where there is one.
    end: Option<TokenEnd>,
    why: Option<Failed>,
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
    let live = gate.node.config.live();
    // Whoever asks: nothing further in shall see a token.
    let token = bearer::take(request.headers_mut());
    let caller = match peer.way {
        Way::Unix { uid } => by_uid(&gate, uid),
        Way::Tcp { certificate, .. } => names_us_alone(&gate, &live.access, request.headers())
            .map(|()| by_token(&gate, token.as_deref(), certificate)),
    };
    let Caller { principal, end, why } = match caller {
        Ok(caller) => caller,
        Err(failed) => return refuse(&gate, &live.access, &peer, failed),
    };
    if let Err(wait) = gate.limits.admit(&live.access, &principal, &peer) {
        return limits::too_often(wait);
    }
    let rule = match admit(&principal, why, path.as_ref(), &request) {
        Ok(rule) => rule,
        Err(failed) => {
            gate.limits.note_refusal(&peer, failed.0.status);
            let mut response = failed.into_response();
            // The audit has refusals, too.
            response.extensions_mut().insert(principal);
            return response;
        }
    };
    request.extensions_mut().insert(principal.clone());
    audit::asked_by(&mut request, &principal);
    // What was carried out before is answered, though the VM may be gone: the
    // handler looks for it.
    let may_be_gone = idempotency::is_repeatable(&request, path.as_ref());
    let asked = async move {
        if let (Ok(params), Some(Rule { reach: Reach::Vm, .. })) = (&params, rule)
            && !may_be_gone
            && let Err(failed) = reaches(&gate, params)
        {
            return failed.into_response();
        }
        next.run(request).await
    };
    let answer = ASKING.scope(principal, asked).await;
    match end {
        Some(end) => until(end, &peer.cut, answer),
        None => answer,
    }
}

/// Answers somebody who is not even asked for a token.
fn refuse(gate: &Gate, config: &AccessConfig, peer: &Peer, failed: Failed) -> Response {
    match gate.limits.stranger(config, peer) {
        Ok(()) => {
            gate.limits.note_refusal(peer, failed.0.status);
            failed.into_response()
        }
        Err(wait) => limits::too_often(wait),
    }
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

/// Who is at a socket's other end. Only root, ourselves and, where the socket
/// is that group's, its members get as far as to connect (unix(7): write
/// permission on the socket).
fn by_uid(gate: &Gate, uid: Option<u32>) -> Result<Caller, Failed> {
    let scope = uid.and_then(|uid| scope_of(uid, gate.group_may_connect));
    match (uid, scope) {
        (Some(uid), Some(_)) => {
            let who = Who::User { uid, name: gate.users.name(uid) };
            Ok(Caller { principal: Principal { who, scope, vms: None }, end: None, why: None })
        }
        _ => Err(Failed::new(
            Code::Forbidden,
            format!("only root, the agent's user and the group {GROUP} may use this socket"),
        )),
    }
}

fn scope_of(uid: u32, group_may_connect: bool) -> Option<Scope> {
    if is_owner(uid) {
        return Some(Scope::Admin);
    }
    group_may_connect.then_some(Scope::Operate)
}

fn is_owner(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

/// Whether a request is meant for us, as far as a browser says.
fn names_us_alone(gate: &Gate, config: &AccessConfig, headers: &HeaderMap) -> Result<(), Failed> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !names_us(host, gate.listens_at, &config.hosts) {
        // A page of somebody else's that a browser was led to believe is ours.
        return Err(Failed::new(
            Code::Forbidden,
            "the Host header names neither localhost nor the address that api_listen names nor \
             one of api.hosts",
        ));
    }
    if !is_of_our_pages(headers, host) {
        return Err(Failed::new(
            Code::Forbidden,
            "the Origin header names another site: its pages may not open WebSockets here",
        ));
    }
    Ok(())
}

/// Whose token this is; a nobody with the reason why.
fn by_token(gate: &Gate, token: Option<&str>, certificate: Option<TokenId>) -> Caller {
    // A certificate is a caller of its own where the configuration says so and
    // no token is shown; a bad token is never made good by one.
    if let (None, Some(id), Some(scope)) = (token, certificate, client_scope(gate)) {
        let principal = Principal { who: Who::Certificate { id }, scope: Some(scope), vms: None };
        return Caller { principal, end: None, why: None };
    }
    let why = match token {
        Some(token) => match gate.node.tokens.principal(token, jiff::Timestamp::now()) {
            Some((principal, end)) => return Caller { principal, end: Some(end), why: None },
            None => "the bearer token is not a good one: `inn token list` shows which ones are \
                     revoked or expired"
                .to_owned(),
        },
        None => format!(
            "a bearer token is needed; the first one is in {}",
            gate.node.config.paths.token().display()
        ),
    };
    let why = Some(Failed::new(Code::Unauthorized, why));
    Caller { principal: Principal::NOBODY, end: None, why }
}

fn client_scope(gate: &Gate) -> Option<Scope> {
    gate.node.config.tls.client_scope
}

/// Browsers let any page open a WebSocket to anywhere, and say which page's it
/// is (RFC 6455, 10.2). Other requests they keep to themselves.
fn is_of_our_pages(headers: &HeaderMap, host: &str) -> bool {
    if !headers.contains_key(header::SEC_WEBSOCKET_KEY) {
        return true;
    }
    headers.get_all(header::ORIGIN).iter().all(|origin| {
        let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        authority.is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
    })
}

fn names_us(host: &str, listens_at: Option<SocketAddr>, hosts: &[String]) -> bool {
    // The port, if any, comes last; in an IPv6 literal colons stand in brackets.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let is_name = |ours: &str| name.eq_ignore_ascii_case(ours);
    if is_name("localhost") || hosts.iter().any(|ours| is_name(ours)) {
        return true;
    }
    let Ok(ip) = bare.parse::<IpAddr>() else { return false };
    // Names can be made to lead anywhere, addresses cannot.
    ip.is_loopback() || listens_at.is_some_and(|at| at.ip() == ip || at.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn names_that_could_be_anybody_s_are_not_ours() {
        let local = Some("127.0.0.1:5100".parse().unwrap());
        for host in ["localhost", "LOCALHOST:5100", "127.0.0.1:5100", "[::1]:5100", "127.0.0.1"] {
            assert!(names_us(host, local, &[]), "{host}");
        }
        for host in ["evil.example", "evil.example:5100", "10.0.0.1:5100", "", "localhost.evil:80"]
        {
            assert!(!names_us(host, local, &[]), "{host}");
        }
        let all = Some("0.0.0.0:5100".parse().unwrap());
        assert!(names_us("10.0.0.1:5100", all, &[]));
        assert!(!names_us("node.example:5100", all, &[]));
        let one = Some("10.0.0.2:5100".parse().unwrap());
        assert!(names_us("10.0.0.2:5100", one, &[]) && !names_us("10.0.0.3:5100", one, &[]));
        let hosts = ["node.example".to_owned()];
        assert!(names_us("Node.Example:5100", local, &hosts));
        assert!(!names_us("x.node.example", local, &hosts) && !names_us("example", local, &hosts));
    }

    #[test]
    fn only_pages_of_ours_open_websockets() {
        let allowed = |websocket: bool, origins: &[&str]| {
            let mut headers = HeaderMap::new();
            if websocket {
                headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("x"));
            }
            for origin in origins {
                headers.append(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
            }
            is_of_our_pages(&headers, "localhost:5100")
        };
        assert!(allowed(true, &[]), "no browser");
        assert!(allowed(true, &["http://localhost:5100"]));
        assert!(allowed(false, &["http://evil.example"]), "no WebSocket");
        for evil in ["http://evil.example", "null", "http://localhost", "http://localhost:5101"] {
            assert!(!allowed(true, &[evil]), "{evil}");
            assert!(!allowed(true, &["http://localhost:5100", evil]), "{evil}");
        }
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
