//! The Swagger UI, as far as it can be looked at without a browser.

use hyper::Request;
use inn_vmm_sim::Behaviour;

use super::access::OVER_TCP;
use super::agent::TestAgent;
use super::client::{Answer, send_tcp};

/// What stands between the quotes after `before`.
fn quoted<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    let parts = text.split(before).skip(1);
    parts.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_loads_the_served_description_takes_a_token_and_asks_nobody_else() {
    let agent = TestAgent::with(OVER_TCP, Behaviour::default()).await;
    let get = async |path: &str| -> Answer {
        let request = Request::get(path).header("host", "localhost");
        send_tcp(agent.tcp(), request).await
    };
    let page = get("/swagger/").await;
    assert_eq!(page.status, 200, "without a token");
    let html = String::from_utf8(page.body.to_vec()).unwrap();

    // All that it is made of is ours, and there.
    let mut files = quoted(&html, "src=");
    files.extend(quoted(&html, "href="));
    assert!(files.len() >= 4, "{html}");
    let mut scripts = String::new();
    for file in files {
        assert!(!file.contains("//") && !file.starts_with("data:"), "{file} is not ours");
        let path = format!("/swagger/{}", file.trim_start_matches("./"));
        let answer = get(&path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        if file.ends_with("initializer.js") {
            scripts = String::from_utf8(answer.body.to_vec()).unwrap();
        }
    }
    // The policy has no room for a script in the page: there is none.
    for script in html.split("<script").skip(1) {
        let (tag, content) = script.split_once('>').unwrap();
        let content = content.split("</script>").next().unwrap();
        assert!(tag.contains("src=") && content.trim().is_empty(), "{script}");
    }
    let policy = page.header("content-security-policy");
    for part in [
        "default-src 'none'",
        "script-src 'self';",
        "connect-src 'self'",
        "img-src 'self' data:",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(part), "{part}: {policy}");
    }

    // It loads the description that is served, and no validator elsewhere.
    assert!(scripts.contains("\"/api/openapi.json\""), "{scripts}");
    assert_eq!(quoted(&scripts, "\"validatorUrl\":"), ["none"], "{scripts}");
    let served = get("/api/openapi.json").await.ok();
    assert_eq!(served, serde_json::to_value(crate::openapi()).unwrap());
    // Its Authorize button takes a bearer token, which goes with every request.
    let scheme = &served["components"]["securitySchemes"]["token"];
    assert_eq!((&scheme["type"], &scheme["scheme"]), (&"http".into(), &"bearer".into()));
    let all = served["security"].as_array().unwrap();
    assert!(all.iter().any(|one| one.get("token").is_some()), "{all:?}");
    for operations in served["paths"].as_object().unwrap().values() {
        for operation in operations.as_object().unwrap().values() {
            assert!(operation.get("security").is_none(), "another one: {operation}");
        }
    }
    assert!(served.get("servers").is_none(), "requests go to whoever served the page");
    // The API's own answers have no policy for pages.
    assert_eq!(get("/health").await.header("content-security-policy"), "");
}
