//! Who may do what: by uid on the unix socket, by token over TCP.

use std::net::{IpAddr, SocketAddr};

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use inn_api::Code;
use tokio::net::{TcpListener, UnixListener};

use super::problem::Failed;
use super::serve::Gate;

/// Whose group may operate the node: whoever is in it can start a VM as the
/// agent's user, so it is as good as root.
pub(super) const GROUP: &str = "innkeeper";

/// Paths that tell nothing about this node and do nothing.
const OPEN: [&str; 3] = ["/health", "/swagger", "/api/openapi.json"];

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

pub(super) async fn check(
    State(gate): State<Gate>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let admitted = match peer {
        Peer::Unix { uid } => by_uid(uid, gate.group_may_connect),
        Peer::Tcp => by_token(&gate, &request),
    };
    match admitted {
        Ok(()) => next.run(request).await,
        Err(failed) => failed.into_response(),
    }
}

/// Only root, ourselves and, where the socket is that group's, its members
/// get as far as to connect (unix(7): write permission on the socket).
fn by_uid(uid: Option<u32>, group_may_connect: bool) -> Result<(), Failed> {
    let own = rustix::process::geteuid().as_raw();
    match uid {
        Some(uid) if uid == 0 || uid == own || group_may_connect => Ok(()),
        _ => Err(Failed::new(
            Code::Forbidden,
            format!("only root, the agent's user and the group {GROUP} may use this socket"),
        )),
    }
}

fn by_token(gate: &Gate, request: &Request) -> Result<(), Failed> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(|host| names_us(host, gate.listens_at)) {
        // A page of somebody else's that a browser was led to believe is ours.
        return Err(Failed::new(
            Code::Forbidden,
            "the Host header names neither localhost nor the address that api_listen names",
        ));
    }
    let path = request.uri().path();
    if OPEN.iter().any(|open| path == *open || path.starts_with("/swagger/")) {
        return Ok(());
    }
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    match token {
        Some(token) if gate.node.tokens.is_good(token) => Ok(()),
        Some(_) => Err(Failed::new(Code::Unauthorized, "the bearer token is not a good one")),
        None => Err(Failed::new(
            Code::Unauthorized,
            format!(
                "a bearer token is needed; the first one is in {}",
                gate.node.config.paths.token().display()
            ),
        )),
    }
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
        assert!(by_uid(Some(own), false).is_ok());
        assert!(by_uid(Some(0), false).is_ok());
        assert!(by_uid(Some(own + 12_345), false).is_err());
        assert!(by_uid(Some(own + 12_345), true).is_ok());
        assert!(by_uid(None, true).is_err());
    }
}
