//! What the configuration says of registries, changed by reloads while the
//! agent runs.

use serde_json::{Value, json};

use super::agent::TestAgent;
use super::registry::TestRegistry;

/// Sets the file's content, and has it read.
async fn configured(agent: &TestAgent, text: &str) {
    std::fs::write(agent.dir.path().join("agent.toml"), text).unwrap();
    let reload = agent.client.post("/api/node/reload", &json!({})).await.ok();
    assert_eq!(reload["waiting"], json!([]), "{reload}");
}

async fn pulled(agent: &TestAgent, reference: &str) -> Value {
    let body = json!({ "reference": reference });
    agent.client.post("/api/images/pull?wait=60s", &body).await.ok()
}

/// The problem's code and words.
async fn refused(agent: &TestAgent, reference: &str) -> (String, String) {
    let operation = pulled(agent, reference).await;
    assert_eq!(operation["state"], "failed", "{operation}");
    let problem = &operation["problem"];
    let text = |key: &str| problem[key].as_str().unwrap().to_owned();
    (text("code"), text("detail"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_pulled_and_from_where_changes_with_a_reload() {
    let registry = TestRegistry::start(100_000).await;
    let agent = TestAgent::start().await;
    let name = registry.reference();
    let plain = "registries.plain_http = \"127.0.0.1\"\n";

    configured(&agent, &format!("{plain}registries.accept = \"docker.io, quay.io/team\"\n")).await;
    let (code, detail) = refused(&agent, &name).await;
    assert!(detail.contains("only those of docker.io, quay.io/team"), "{detail}");
    assert_eq!(code, "forbidden", "{detail}");

    configured(&agent, &format!("{plain}registries.digests_only = true\n")).await;
    let (_, detail) = refused(&agent, &name).await;
    assert!(detail.contains("NAME@sha256:"), "{detail}");

    let key = agent.dir.path().join("cosign.pub");
    let signed = format!("{plain}registries.signed_by = \"{}\"\n", key.display());
    configured(&agent, &signed).await;
    let (_, detail) = refused(&agent, &name).await;
    assert!(detail.contains("cosign.pub"), "{detail}");
    // Of RFC 8032's first test.
    let pem = "-----BEGIN PUBLIC KEY-----\n\
               MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
               -----END PUBLIC KEY-----\n";
    std::fs::write(&key, pem).unwrap();
    let (_, detail) = refused(&agent, &name).await;
    assert!(detail.contains("nobody has signed it"), "{detail}");
    assert!(registry.ranges().is_empty(), "no layer of it was asked for");

    let accept = format!("registries.accept = \"{}/team\"\n", registry.address);
    configured(&agent, &format!("{plain}{accept}")).await;
    let operation = pulled(&agent, &name).await;
    assert_eq!(operation["state"], "succeeded", "{operation}");

    // Nobody has that name; the mirror is asked, and nobody else.
    let mirror = format!("registries.mirrors = \"registry.invalid={}/team\"\n", registry.address);
    configured(&agent, &format!("{plain}{mirror}")).await;
    let operation = pulled(&agent, "registry.invalid/app:1").await;
    assert_eq!(operation["state"], "succeeded", "{operation}");
    let images = agent.client.get("/api/images").await.ok();
    let names: Vec<_> = images["items"].as_array().unwrap().iter().map(|i| &i["name"]).collect();
    assert!(names.contains(&&json!("registry.invalid/app:1")), "{names:?}");
}

/// What a mirror has changed is asked of the next place, and so is all after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_with_wrong_content_is_left_for_the_next() {
    let (wrong, right) =
        (TestRegistry::start(3_000_000).await, TestRegistry::start(3_000_000).await);
    wrong.change_layer();
    let agent = TestAgent::start().await;
    configured(
        &agent,
        &format!(
            "registries.plain_http = \"127.0.0.1\"\nregistries.mirrors = \"{}={}\"\n",
            right.address, wrong.address
        ),
    )
    .await;
    let operation = pulled(&agent, &right.reference()).await;
    assert_eq!(operation["state"], "succeeded", "{operation}");
    assert_eq!((wrong.ranges().len(), right.ranges().len()), (1, 1), "each was asked once");
    // Where there is nobody else, it is said.
    right.change_layer();
    agent.client.delete(&format!("/api/images/{}", right.reference().replace('/', "%2F"))).await;
    let (code, detail) = refused(&agent, &right.reference()).await;
    assert_eq!(code, "invalid-image", "{detail}");
    assert!(detail.contains("damaged or is another one"), "{detail}");
}
