use hyper::Request;
use serde_json::json;

use super::agent::{TestAgent, request};
use super::client::send_tcp;
use crate::node::{Node, Parts};
use crate::{AgentError, Config};
use inn_vmm_sim::{Behaviour, SimRuntime};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_wrong_is_a_problem_with_a_code() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({ "start": false })).await;
    let client = &agent.client;
    let create = |more| request("new", more);
    let mut refused = Vec::new();
    for (more, status, code, word) in [
        (json!({ "image": "bse" }), 404, "not-found", "did you mean base"),
        (json!({ "image": "sha256:0123456789" }), 404, "not-found", "inn image import"),
        (json!({ "image": null, "language": "pyton" }), 400, "invalid-request", "python"),
        (json!({ "image": null, "language": "ruby" }), 404, "not-found", "languages.ruby"),
        (json!({ "image": null }), 400, "invalid-request", "an image or a language"),
        (json!({ "memoryBytes": 1 << 20 }), 400, "invalid-request", "64MiB"),
        (json!({ "memoryBytes": 1u64 << 60 }), 507, "insufficient-resources", "this node has"),
        (json!({ "diskBytes": 4096 }), 400, "invalid-request", "16MiB"),
        (json!({ "vcpus": 0 }), 400, "invalid-request", "vCPU"),
        (json!({ "name": "Not_A_Name" }), 400, "invalid-request", "Not_A_Name"),
        (json!({ "nmae": "x" }), 400, "invalid-request", "nmae"),
        (json!({ "name": "web" }), 409, "name-in-use", "web"),
    ] {
        let answer = client.post("/api/vms", &create(more.clone())).await;
        let (got_status, got_code, detail) = answer.problem();
        assert_eq!((got_status, got_code.as_str()), (status, code), "{more}: {detail}");
        assert!(detail.contains(word), "{more}: {detail}");
        refused.push(detail);
    }
    assert_eq!(agent.node.vms.len(), 1, "nothing was made");

    for (path, status, code, word) in [
        ("/api/vms/webb", 404, "not-found", "did you mean web?"),
        ("/api/nothing", 404, "not-found", "/api/nothing"),
        ("/api/vms?stauts=running", 400, "invalid-request", "stauts"),
        ("/api/vms?status=sleepy", 400, "invalid-request", "sleepy"),
        ("/api/vms/web?wait=soon", 400, "invalid-request", "soon"),
        ("/api/vms/web/start", 405, "invalid-request", "GET"),
        ("/api/operations/xyz", 404, "not-found", "xyz"),
        ("/api/vms/web/files?path=relative", 400, "invalid-request", "relative"),
        ("/api/vms/web/files?path=/x", 409, "conflict", "inn vm start web"),
        ("/api/vms/web/logs?source=dreams", 400, "invalid-request", "dreams"),
    ] {
        let (got_status, got_code, detail) = client.get(path).await.problem();
        assert_eq!((got_status, got_code.as_str()), (status, code), "{path}: {detail}");
        assert!(detail.contains(word), "{path}: {detail}");
    }
    let bad = Request::post("/api/vms").header("content-type", "application/json");
    assert_eq!(client.send(bad, "{ not json").await.problem().1, "invalid-request");
    let large = Request::post("/api/vms").header("content-type", "application/json");
    let body = format!("{{\"name\": \"{}\"}}", "x".repeat(2 << 20));
    assert_eq!(client.send(large, &body).await.problem().1, "body-too-large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_in_use_stays_and_says_by_whom() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({ "start": false })).await;
    let images = agent.client.get("/api/images").await.ok();
    assert_eq!(images["items"][0]["usedBy"], json!(["web"]));
    let (status, code, detail) = agent.client.delete("/api/images/base").await.problem();
    assert_eq!((status, code.as_str()), (409, "in-use"));
    assert!(detail.contains("web"), "{detail}");
    agent.client.delete("/api/vms/web?wait=60s").await.ok();
    assert_eq!(agent.client.delete("/api/images/base").await.status, 204);
    assert_eq!(agent.client.delete("/api/images/base").await.problem().1, "not-found");
    assert_eq!(agent.client.get("/api/images").await.ok()["items"], json!([]));
    let (_, code, detail) = agent.client.post("/api/vms", &request("x", json!({}))).await.problem();
    assert_eq!(code, "not-found", "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_of_nothing_fails_as_an_operation() {
    let agent = TestAgent::start().await;
    let body = json!({ "path": "/nonexistent/image.tar", "name": "none" });
    let operation = agent.client.post("/api/images/import", &body).await;
    assert_eq!(operation.status, 202);
    let id = operation.ok()["id"].as_str().unwrap().to_owned();
    let ended = agent.client.get(&format!("/api/operations/{id}?wait=60s&version=99")).await.ok();
    assert_eq!(ended["state"], "failed");
    let detail = ended["problem"]["detail"].as_str().unwrap();
    assert!(detail.contains("/nonexistent/image.tar"), "{detail}");
    let body = json!({ "path": "relative.tar", "name": "none" });
    let refused = agent.client.post("/api/images/import", &body).await;
    assert_eq!(refused.problem().1, "invalid-request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_made_up_and_a_vm_replaced() {
    let agent = TestAgent::start().await;
    let mut nameless = request("x", json!({ "start": false }));
    nameless.as_object_mut().unwrap().remove("name");
    let vm = agent.client.post("/api/vms?wait=60s", &nameless).await.ok();
    assert!(vm["name"].as_str().unwrap().starts_with("base-"), "{vm}");

    let first = agent.create("web", json!({})).await;
    let second = agent.create("web", json!({ "replace": true })).await;
    assert_ne!(first["id"], second["id"]);
    assert_eq!(second["phase"], "running");
    let by_id = format!("/api/vms/{}", first["id"].as_str().unwrap());
    assert_eq!(agent.client.get(&by_id).await.problem().0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_sent_again_is_carried_out_once() {
    let agent = TestAgent::start().await;
    let send = |key: &'static str, body: serde_json::Value| {
        let request = Request::post("/api/vms")
            .header("content-type", "application/json")
            .header("idempotency-key", key);
        let client = agent.client.clone();
        async move { client.send(request, &body.to_string()).await }
    };
    let body = request("once", json!({ "start": false }));
    let first = send("k1", body.clone()).await;
    let again = send("k1", body.clone()).await;
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    assert_eq!(first.location, again.location);
    let other = send("k1", request("other", json!({}))).await;
    assert_eq!(other.problem().1, "conflict");
    let fresh = send("k2", body).await;
    assert_eq!(fresh.problem().1, "name-in-use");
    assert_eq!(agent.node.vms.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tcp_nothing_goes_without_a_token_and_a_name_of_ours() {
    let agent = TestAgent::with(&[("api_listen", "127.0.0.1:0")], Behaviour::default()).await;
    let token = std::fs::read_to_string(agent.node.config.paths.token()).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let get = |path: &str, host: &str, auth: Option<&str>| {
        let mut request = Request::get(path).header("host", host);
        if let Some(auth) = auth {
            request = request.header("authorization", auth);
        }
        send_tcp(agent.tcp(), request)
    };
    let host = agent.tcp().to_string();
    assert_eq!(get("/api/vms", &host, Some(&bearer)).await.status, 200);
    assert_eq!(get("/api/vms", "localhost", Some(&bearer)).await.status, 200);
    for auth in [None, Some("Bearer wrong"), Some("Basic abc"), Some(token.trim())] {
        assert_eq!(get("/api/vms", &host, auth).await.problem().0, 401, "{auth:?}");
    }
    let foreign = get("/api/vms", "evil.example", Some(&bearer)).await;
    assert_eq!(foreign.problem().0, 403);
    assert_eq!(get("/health", &host, None).await.ok()["status"], "ok");
    let document = get("/api/openapi.json", &host, None).await.ok();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let node = agent.client.get("/api/node").await.ok();
    assert_eq!(node["apiListen"], host);
    assert_eq!(get("/swagger/", &host, None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_on_one_data_directory_says_so() {
    let agent = TestAgent::start().await;
    let config: Config = agent.node.config.latest();
    let parts = Parts { guest_binary: b"" };
    let second = Node::open(config, parts, SimRuntime::default()).await;
    let error = second.expect_err("the first one has the lock");
    assert!(matches!(error, AgentError::Lock(_)), "{error:?}");
    assert!(error.to_string().contains("uses this data directory"), "{error}");
}

#[test]
fn every_route_is_described() {
    let document = serde_json::to_value(crate::openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    for path in [
        "/health",
        "/api/node",
        "/api/node/drain",
        "/api/node/reap",
        "/api/node/resources",
        "/api/node/benchmark",
        "/api/node/doctor",
        "/api/vms/{vm}/ttl",
        "/api/vms/{vm}/idle",
        "/api/node/reload",
        "/api/node/upgrade",
        "/api/node/guests/shutdown",
        "/api/node/guests/start",
        "/api/node/undrain",
        "/api/vms",
        "/api/vms/{vm}",
        "/api/vms/{vm}/start",
        "/api/vms/{vm}/stop",
        "/api/vms/{vm}/restart",
        "/api/vms/{vm}/stats",
        "/api/vms/{vm}/exec",
        "/api/vms/{vm}/execs",
        "/api/vms/{vm}/execs/{exec}",
        "/api/vms/{vm}/execs/{exec}/attach",
        "/api/vms/{vm}/execs/{exec}/signal",
        "/api/vms/{vm}/lease",
        "/api/disk-images",
        "/api/disk-images/{id}",
        "/api/vms/{vm}/console",
        "/api/vms/{vm}/vnc",
        "/api/vms/{vm}/logs",
        "/api/vms/{vm}/files",
        "/api/vms/{vm}/files/info",
        "/api/vms/{vm}/files/list",
        "/api/vms/{vm}/files/upload",
        "/api/vms/{vm}/files/mkdir",
        "/api/vms/{vm}/files/rename",
        "/api/vms/{vm}/files/symlink",
        "/api/vms/{vm}/files/attributes",
        "/api/vms/{vm}/files/watch",
        "/api/vms/{vm}/guest/password",
        "/api/vms/{vm}/guest/hostname",
        "/api/vms/{vm}/guest/clock",
        "/api/vms/{vm}/guest/network",
        "/api/vms/{vm}/guest/freeze",
        "/api/vms/{vm}/guest/thaw",
        "/api/vms/{vm}/guest/ssh-keys",
        "/api/vms/{vm}/guest/disk",
        "/api/vms/{vm}/guest/mount",
        "/api/vms/{vm}/guest/unmount",
        "/api/events",
        "/api/images",
        "/api/images/import",
        "/api/images/gc",
        "/api/vms/{vm}/commit",
        "/api/images/{name}/export",
        "/api/images/pull",
        "/api/images/{name}",
        "/api/kernels",
        "/api/kernels/default",
        "/api/operations/{id}",
        "/api/vms/{vm}/why",
        "/api/tokens",
        "/api/tokens/{token}",
        "/api/networks",
        "/api/networks/{network}",
        "/api/node/network-plan",
        "/api/ports",
        "/api/ports/{port}",
        "/api/ports/restore",
        "/api/vms/{vm}/policy",
        "/api/vms/{vm}/ip",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
    assert_eq!(paths.len(), 87);
    // Who makes a client of it names its functions so.
    let operations = paths.values().flat_map(|path| path.as_object().unwrap().values());
    let ids: Vec<&str> =
        operations.filter_map(|operation| operation["operationId"].as_str()).collect();
    let distinct: std::collections::BTreeSet<&&str> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_an_object_and_no_array_of_its_fields() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({ "start": false })).await;
    for body in [json!([null, null]), json!(null), json!(7), json!("ttlSeconds")] {
        let answer = agent.client.post("/api/vms/web/ttl", &body).await;
        let (status, code, detail) = answer.problem();
        assert_eq!((status, code.as_str()), (400, "invalid-request"), "{body}: {detail}");
        assert!(detail.contains("an object"), "{body}: {detail}");
    }
    agent.client.post("/api/vms/web/ttl", &json!({ "ttlSeconds": 60 })).await.ok();
}
