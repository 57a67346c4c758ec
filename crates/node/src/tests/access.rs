//! Who may do what, over the sockets that they come by.

use inn_vmm_sim::Behaviour;
use serde_json::{Value, json};

use super::agent::TestAgent;
use super::client::{Answer, send};
use hyper::Request;
use tokio::net::TcpStream;

pub(super) const OVER_TCP: &[(&str, &str)] = &[("api_listen", "127.0.0.1:0")];

/// Somebody with a token, over TCP.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) address: std::net::SocketAddr,
    pub(super) token: String,
}

impl Caller {
    /// The owner of a token that was made to be like `wanted`.
    pub(super) async fn new(agent: &TestAgent, wanted: Value) -> Self {
        let made = agent.client.post("/api/tokens", &wanted).await;
        assert_eq!((made.status, made.header("cache-control")), (201, "no-store"), "{made:?}");
        let token = made.ok()["token"].as_str().unwrap().to_owned();
        Self { address: agent.tcp(), token }
    }

    pub(super) async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("authorization", format!("Bearer {}", self.token));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let stream = TcpStream::connect(self.address).await.unwrap();
        send(stream, request, &body.map(Value::to_string).unwrap_or_default()).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None).await
    }
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|vm| vm["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scope_is_what_a_token_is_good_for() {
    let agent = TestAgent::with(OVER_TCP, Behaviour::default()).await;
    agent.create("web", json!({})).await;
    let reader = Caller::new(&agent, json!({ "scope": "read", "name": "reader" })).await;
    let operator = Caller::new(&agent, json!({ "scope": "operate" })).await;
    let admin = Caller::new(&agent, json!({ "scope": "admin" })).await;
    for (method, path, read, operate) in [
        ("GET", "/api/vms", 200, 200),
        ("GET", "/api/vms/web", 200, 200),
        ("GET", "/api/vms/web/logs", 200, 200),
        ("GET", "/api/node", 200, 200),
        ("GET", "/api/images", 200, 200),
        // A simulated guest has no files, and says so.
        ("GET", "/api/vms/web/files?path=/etc/hostname", 403, 409),
        // No WebSocket, and that is what is said to those who may have one.
        ("GET", "/api/vms/web/exec?command=id", 403, 400),
        ("GET", "/api/vms/web/console", 403, 400),
        ("GET", "/api/vms/web/lease", 403, 400),
        ("POST", "/api/vms/web/start", 403, 200),
        ("GET", "/api/tokens", 403, 403),
        ("DELETE", "/api/tokens/reader", 403, 403),
        ("GET", "/api/nothing", 404, 404),
        ("PATCH", "/api/vms", 405, 405),
    ] {
        let path_now = if path.ends_with("/start") { "/api/vms/web/start?wait=60s" } else { path };
        let as_reader = reader.ask(method, path_now, None).await;
        assert_eq!(as_reader.status, read, "{method} {path}: {as_reader:?}");
        if read == 403 {
            let (_, code, detail) = as_reader.problem();
            assert_eq!(code, "forbidden");
            assert!(detail.contains("token reader (") && detail.contains("read"), "{detail}");
        }
        let as_operator = operator.ask(method, path_now, None).await;
        assert_eq!(as_operator.status, operate, "{method} {path}: {as_operator:?}");
    }
    let list = admin.get("/api/tokens").await.ok();
    let tokens = list["items"].as_array().unwrap();
    assert_eq!(tokens.len(), 4, "with the first one");
    assert!(tokens.iter().all(|token| token.get("token").is_none()), "{list}");
    let of_reader = tokens.iter().find(|token| token["name"] == "reader").unwrap();
    assert_eq!(of_reader["scope"], "read");
    assert!(of_reader["lastUsedAt"].is_string(), "{of_reader}");
    let text = list.to_string();
    assert!(!text.contains(&reader.token) && !text.contains("digest"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_a_token_of_one_vm_there_is_no_other() {
    let agent = TestAgent::with(OVER_TCP, Behaviour::default()).await;
    let mine = agent.create("mine", json!({})).await;
    let other = agent.create("other", json!({})).await;
    let caller = Caller::new(&agent, json!({ "scope": "operate", "vms": ["mine"] })).await;

    assert_eq!(names(&caller.get("/api/vms").await.ok()), ["mine"]);
    assert_eq!(caller.get("/api/node").await.ok()["vms"], 1);
    assert_eq!(caller.get("/api/images").await.ok()["items"][0]["usedBy"], json!(["mine"]));
    let by_id = format!("/api/vms/{}", mine["id"].as_str().unwrap());
    assert_eq!(caller.get(&by_id).await.ok()["name"], "mine");
    assert_eq!(
        caller.ask("POST", "/api/vms/mine/stop?wait=60s&force=true", None).await.status,
        200
    );

    let other_id = other["id"].as_str().unwrap();
    for path in ["other", other_id, "%6fther", "nothing"] {
        let answer = caller.get(&format!("/api/vms/{path}")).await;
        let (status, code, detail) = answer.problem();
        assert_eq!((status, code.as_str()), (404, "not-found"), "{path}");
        assert!(!detail.contains("did you mean other"), "{detail}");
    }
    for (method, path) in [
        ("DELETE", "/api/vms/other"),
        ("POST", "/api/vms/other/stop"),
        ("GET", "/api/vms/other/logs"),
        ("GET", "/api/vms/other/stats"),
        ("GET", "/api/vms/other/files?path=/x"),
        ("GET", "/api/vms/other/exec?command=id"),
        ("GET", "/api/vms/other/console"),
    ] {
        assert_eq!(caller.ask(method, path, None).await.problem().0, 404, "{method} {path}");
    }
    let create = super::agent::request("third", json!({}));
    assert_eq!(caller.ask("POST", "/api/vms", Some(&create)).await.problem().0, 403);
    assert_eq!(caller.get("/api/operations/0000000000000000").await.problem().0, 403);

    // Another VM gets the name, and is not its VM.
    agent.create("mine", json!({ "replace": true })).await;
    assert_eq!(caller.get("/api/vms/mine").await.problem().0, 404);
    assert_eq!(names(&caller.get("/api/vms").await.ok()), [""; 0]);
    assert_eq!(names(&agent.client.get("/api/vms").await.ok()), ["other", "mine"]);

    for (refused, status) in [
        (json!({ "scope": "admin", "vms": ["other"] }), 400),
        (json!({ "scope": "read", "vms": [] }), 400),
        (json!({ "scope": "read", "vms": ["none"] }), 404),
        (json!({ "scope": "root" }), 400),
        (json!({ "scope": "read", "name": "a b" }), 400),
        (json!({ "scope": "read", "ttlSeconds": 0 }), 400),
        (json!({ "scope": "read", "ttlSeconds": u64::MAX }), 400),
    ] {
        assert_eq!(
            agent.client.post("/api/tokens", &refused).await.problem().0,
            status,
            "{refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_takes_its_time_does_not_reach_the_next_vm_of_the_name() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let agent = TestAgent::with(OVER_TCP, Behaviour::default()).await;
    agent.create("web", json!({})).await;
    let caller = Caller::new(&agent, json!({ "scope": "operate", "vms": ["web"] })).await;
    let mut slow = TcpStream::connect(agent.tcp()).await.unwrap();
    let body = json!({ "hostname": "taken" }).to_string();
    let head = format!(
        "POST /api/vms/web/guest/hostname HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         authorization: Bearer {}\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n\
         content-length: {}\r\n\r\n",
        caller.token,
        body.len()
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    // The agent is past the check and waits for the body once it says this.
    let mut go_on = [0; 25];
    slow.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    agent.create("web", json!({ "replace": true })).await;
    slow.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_is_refused_from_its_next_request_on_and_in_the_next_life() {
    let agent = TestAgent::with(OVER_TCP, Behaviour::default()).await;
    let caller = Caller::new(&agent, json!({ "scope": "read", "name": "laptop" })).await;
    let same = json!({ "scope": "read", "name": "laptop" });
    assert_eq!(agent.client.post("/api/tokens", &same).await.problem().1, "name-in-use");
    assert_eq!(caller.get("/api/vms").await.status, 200);

    // On a connection that stays open.
    let stream = TcpStream::connect(agent.tcp()).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut again = async || {
        let request = Request::get("/api/vms")
            .header("host", "localhost")
            .header("authorization", format!("Bearer {}", caller.token))
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status().as_u16();
        http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
        status
    };
    assert_eq!(again().await, 200);
    for _ in 0..2 {
        let revoked = agent.client.delete("/api/tokens/laptop").await.ok();
        assert!(revoked["revokedAt"].is_string(), "{revoked}");
    }
    assert_eq!(again().await, 401);
    connection.abort();
    assert_eq!(caller.get("/api/vms").await.problem().1, "unauthorized");
    assert_eq!(agent.client.delete("/api/tokens/none").await.problem().0, 404);

    let brief = Caller::new(&agent, json!({ "scope": "read", "ttlSeconds": 3600 })).await;
    let agent = agent.live_on().await;
    let here = |caller: &Caller| Caller { address: agent.tcp(), ..caller.clone() };
    assert_eq!(here(&caller).get("/api/vms").await.problem().0, 401);
    assert_eq!(here(&brief).get("/api/vms").await.status, 200);
    let first = std::fs::read_to_string(agent.node.config.paths.token()).unwrap();
    let first = Caller { address: agent.tcp(), token: first.trim().to_owned() };
    assert_eq!(first.get("/api/tokens").await.status, 200, "the first one is an admin's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_caller_s_answer_is_never_another_s() {
    let agent = TestAgent::with(OVER_TCP, Behaviour::default()).await;
    agent.create("web", json!({})).await;
    let a = Caller::new(&agent, json!({ "scope": "operate" })).await;
    let b = Caller::new(&agent, json!({ "scope": "operate" })).await;
    let stop = |caller: &Caller, key: &str| {
        let request = Request::post("/api/vms/web/stop?wait=60s&force=true")
            .header("host", "localhost")
            .header("idempotency-key", key)
            .header("authorization", format!("Bearer {}", caller.token));
        let address = agent.tcp();
        async move { super::client::send_tcp(address, request).await.ok()["generation"].clone() }
    };
    let first = stop(&a, "k").await;
    assert_eq!(stop(&a, "k").await, first, "its own answer again");
    agent.client.post("/api/vms/web/start?wait=60s", &json!({})).await.ok();
    assert_eq!(stop(&a, "k").await, first);
    assert_eq!(agent.vm("web").await["phase"], "running");
    assert_ne!(stop(&b, "k").await, first, "b's key is another");
    assert_eq!(agent.vm("web").await["phase"], "stopped");

    // Tokens are made anew each time: no answer with one is kept.
    let make = || {
        let request = Request::post("/api/tokens")
            .header("content-type", "application/json")
            .header("idempotency-key", "t");
        let client = agent.client.clone();
        async move { client.send(request, "{\"scope\": \"read\"}").await.ok()["token"].clone() }
    };
    assert_ne!(make().await, make().await);
}
