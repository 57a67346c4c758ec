//! What is changed inside a guest, over the API.

use inn_api::{
    Code, Freeze, GrowDisk, InterfaceSetup, MountDisk, NetworkSetup, SetHostname, SetPassword,
    SetSshKeys, Unmount,
};
use inn_client::Client;
use serde_json::json;

use super::agent::TestAgent;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_is_changed_and_says_what_it_did() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let client = Client::unix(agent.node.config.paths.api_socket());
    let password =
        |user: &str| SetPassword { user: user.into(), password: Some("secret".into()), hash: None };
    client.guest_password("web", &password("root")).await.unwrap();
    let error = client.guest_password("web", &password("nobody-there")).await.unwrap_err();
    assert!(error.is_not_found() && !error.to_string().contains("secret"), "{error}");
    client.guest_hostname("web", &SetHostname { hostname: "h".into() }).await.unwrap();
    let long = SetHostname { hostname: "h".repeat(65) };
    let error = client.guest_hostname("web", &long).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidRequest));
    let clock = client.guest_clock("web").await.unwrap();
    assert!(clock.behind_ms.abs() < 60_000, "its clock is this host's: {}", clock.behind_ms);

    let freeze = Freeze { mounts: vec![], timeout_seconds: Some(600) };
    assert_eq!(client.guest_freeze("web", &freeze).await.unwrap().mounts, ["/"]);
    let twice = client.guest_freeze("web", &Freeze::default()).await.unwrap_err();
    assert_eq!(twice.code(), Some(Code::GuestError));
    assert!(!client.guest_thaw("web").await.unwrap().expired);
    let keys = |keys: &[&str], replace| SetSshKeys {
        user: "root".into(),
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        replace,
    };
    client.set_ssh_keys("web", &keys(&["ssh-ed25519 a", "ssh-ed25519 b"], false)).await.unwrap();
    client.set_ssh_keys("web", &keys(&["ssh-ed25519 c"], true)).await.unwrap();
    assert_eq!(client.ssh_keys("web", "root").await.unwrap().keys, ["ssh-ed25519 c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_never_reaches_the_guest() {
    let agent = TestAgent::start().await;
    agent.create("web", json!({})).await;
    let client = Client::unix(agent.node.config.paths.api_socket());
    let guest = |what: &str| format!("/api/vms/web/guest/{what}");
    for (path, body, word) in [
        ("password", json!({ "user": "root" }), "one of password and hash"),
        ("password", json!({ "user": "root", "pasword": "x" }), "pasword"),
        ("network", json!({ "interfaces": [] }), "an interface"),
        ("network", json!({ "interfaces": [{ "name": "a", "addresses": ["1"] }] }), "prefix"),
        ("network", json!({ "interfaces": [], "confirmSeconds": 601 }), "601"),
        ("freeze", json!({ "timeoutSeconds": 601 }), "1 to 600"),
        ("freeze", json!({ "timeoutSeconds": 0 }), "1 to 600"),
        ("hostname", json!({}), "hostname"),
    ] {
        let (status, _, detail) = agent.client.post(&guest(path), &body).await.problem();
        assert_eq!(status, 400, "{path} {body}: {detail}");
        assert!(detail.contains(word), "{path} {body}: {detail}");
    }
    let keys = SetSshKeys { keys: vec!["a\nb".into()], user: "root".into(), replace: false };
    let error = client.set_ssh_keys("web", &keys).await.unwrap_err();
    assert!(error.to_string().contains("one line"), "{error}");

    // A simulated guest has no network and no disks.
    let name = Some("eth0".to_owned());
    let interfaces = vec![InterfaceSetup { name, dhcp4: true, ..InterfaceSetup::default() }];
    let setup = NetworkSetup { interfaces, ..NetworkSetup::default() };
    let mount = MountDisk { serial: "x".into(), target: "/mnt".into(), ..MountDisk::default() };
    for error in [
        client.guest_network("web", &setup).await.unwrap_err(),
        client.mount("web", &mount).await.unwrap_err(),
        client.unmount("web", &Unmount { target: "/mnt".into() }).await.unwrap_err(),
    ] {
        assert_eq!(error.code(), Some(Code::GuestError), "{error}");
        assert!(error.to_string().contains("VM web"), "{error}");
    }
    let grow = GrowDisk { disk_bytes: Some(1 << 20), target: None };
    let error = client.grow_disk("web", &grow).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidRequest), "disks do not shrink: {error}");

    agent.client.post("/api/vms/web/stop?wait=60s", &json!({})).await.ok();
    let error = client.guest_thaw("web").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Conflict), "{error}");
}
