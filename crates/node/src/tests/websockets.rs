//! WebSockets of browsers, which show their token as a subprotocol.

use futures_util::StreamExt;
use inn_api::exec::{BEARER_PROTOCOL, PLAIN_PROTOCOL, SUBPROTOCOL};
use inn_vmm_sim::Behaviour;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::access::{Caller, OVER_TCP};
use super::agent::TestAgent;

/// The status, and the subprotocol that was taken.
async fn open(at: &Caller, path: &str, offered: &[String], origin: &str) -> (u16, String) {
    let mut request = format!("ws://{}{path}", at.address).into_client_request().unwrap();
    let headers = request.headers_mut();
    if !offered.is_empty() {
        headers.insert("sec-websocket-protocol", offered.join(", ").parse().unwrap());
    }
    headers.insert("origin", origin.parse().unwrap());
    let stream = TcpStream::connect(at.address).await.unwrap();
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((mut socket, answer)) => {
            let taken = answer.headers().get("sec-websocket-protocol");
            let taken = taken.map_or("", |value| value.to_str().unwrap()).to_owned();
            if path.contains("/exec") {
                // It is a real one: it says how the command has ended.
                while let Some(Ok(message)) = socket.next().await {
                    if matches!(&message, Message::Binary(data) if data.first() == Some(&3)) {
                        return (101, taken);
                    }
                }
                panic!("no status");
            }
            (101, taken)
        }
        Err(Error::Http(answer)) => (answer.status().as_u16(), String::new()),
        Err(error) => panic!("{error}"),
    }
}

/// base64url without padding.
fn base64url(text: &str) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let mut bits = [0u8; 4];
        bits[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(bits);
        for n in 0..=chunk.len() {
            out.push(char::from(LETTERS[(bits >> (18 - 6 * n) & 63) as usize]));
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_its_token_as_a_subprotocol() {
    let agent = TestAgent::with(OVER_TCP, Behaviour::default()).await;
    agent.create("web", json!({})).await;
    let operator = Caller::new(&agent, json!({ "scope": "operate", "name": "page" })).await;
    let reader = Caller::new(&agent, json!({ "scope": "read" })).await;
    let own = format!("http://{}", operator.address);
    let bearer = |token: &str| format!("{BEARER_PROTOCOL}{}", base64url(token));
    let exec = "/api/vms/web/exec?command=true";
    let console = "/api/vms/web/console";
    let good = bearer(&operator.token);

    let with = |more: &str| vec![good.clone(), more.to_owned()];
    let taken = open(&operator, exec, &with(SUBPROTOCOL), &own).await;
    assert_eq!(taken, (101, SUBPROTOCOL.to_owned()), "never the token");
    let taken = open(&operator, console, &with(PLAIN_PROTOCOL), &own).await;
    assert_eq!(taken, (101, PLAIN_PROTOCOL.to_owned()));
    let none: Vec<String> = vec![SUBPROTOCOL.to_owned()];
    let wrong = vec![bearer("inn_0000"), SUBPROTOCOL.to_owned()];
    let garbage = vec![format!("{BEARER_PROTOCOL}===="), SUBPROTOCOL.to_owned()];
    let two = vec![good.clone(), good.clone(), SUBPROTOCOL.to_owned()];
    for offered in [&none, &wrong, &garbage, &two] {
        assert_eq!(open(&operator, exec, offered, &own).await.0, 401, "{offered:?}");
    }
    let of_reader = vec![bearer(&reader.token), SUBPROTOCOL.to_owned()];
    assert_eq!(open(&reader, exec, &of_reader, &own).await.0, 403, "its scope counts");
    let foreign = open(&operator, exec, &with(SUBPROTOCOL), "http://evil.example").await;
    assert_eq!(foreign.0, 403, "a page of another site");

    // Nowhere but with a WebSocket: no page sends it with a request of another kind.
    let plain = hyper::Request::get("/api/vms")
        .header("host", "localhost")
        .header("sec-websocket-protocol", &good);
    assert_eq!(super::client::send_tcp(operator.address, plain).await.problem().0, 401);

    agent.client.delete("/api/tokens/page").await.ok();
    assert_eq!(open(&operator, exec, &with(SUBPROTOCOL), &own).await.0, 401, "revoked");
    // Events have what was asked and by whom, and nothing of the token.
    let text = agent.until_told("token page (").await;
    for secret in [&operator.token, &base64url(&operator.token)] {
        assert!(!text.contains(secret.as_str()));
    }
}
