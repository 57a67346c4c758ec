//! Tokens from the command line, and what they are good for over TCP.

use inn_client::Client;

use crate::host::{Host, Said};

#[test]
fn a_token_is_good_over_tcp_for_its_scope_and_until_it_is_revoked() {
    let host = Host::new();
    let mut first = host.inn(&["vm", "list"]);
    first.env("INN_API_LISTEN", "127.0.0.1:0");
    let first = Said::from(first.output().expect("inn ends"));
    assert_eq!(first.code, Some(0), "{first:?}");
    let node = tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(Client::unix(host.path().join("run/api.sock")).node())
        .expect("the agent answers");
    let url = format!("http://{}", node.api_listen.expect("it listens over TCP"));

    let made = host.ok(&["token", "create", "--scope", "read", "--name", "ci", "--ttl", "30d"]);
    assert_eq!(made.lines().count(), 2, "{made}");
    let token = made.lines().last().expect("two lines").to_owned();
    assert!(token.starts_with("inn_") && token.len() == 68, "{made}");
    assert_eq!(host.ok(&["token", "create", "--scope", "read", "-q"]).lines().count(), 1);
    let over_tcp = |words: &[&str]| {
        let mut command = host.inn(words);
        command.env("INN_API_URL", &url).env("INN_TOKEN", &token);
        Said::from(command.output().expect("inn ends"))
    };
    let listed = over_tcp(&["vm", "list", "--all"]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let refused = over_tcp(&["token", "list"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("needs the scope admin"), "{refused:?}");

    let list = host.ok(&["token", "list"]);
    assert!(list.lines().any(|line| line.contains("ci") && line.contains("read")), "{list}");
    assert!(!list.contains(&token), "{list}");
    host.ok(&["token", "revoke", "ci"]);
    let revoked = over_tcp(&["vm", "list"]);
    assert_eq!(revoked.code, Some(1), "{revoked:?}");
    assert!(revoked.stderr.contains("token"), "{revoked:?}");
    assert!(host.ok(&["token", "list"]).contains("revoked"));
}
