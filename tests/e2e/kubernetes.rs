//! The Kubernetes project's own Python client against our exec endpoint.

use inn_tests::fixtures::target_dir;
use serde_json::Value;

use crate::guests::{Kind, guest};

const CLIENT: &str = include_str!("kubernetes_client.py");

#[expect(clippy::disallowed_methods, reason = "another project's client, which is in Python")]
pub(crate) fn python_client_execs() {
    let python = target_dir().join("tools/kubernetes/bin/python");
    if !python.is_file() {
        println!(
            "SKIPPED kubernetes::python_client_execs: there is no Python package kubernetes in \
             target/tools, where `scripts/test tools` installs it"
        );
        return;
    }
    let guest = guest(Kind::InitSerial).unwrap();
    let token = std::fs::read_to_string(guest.host.data().join("token")).unwrap();
    let url = format!("http://{}/api/vms/{}/exec", guest.host.api_address(), guest.vm());
    let output = std::process::Command::new(python)
        .args(["-c", CLIENT, &url, token.trim()])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen["subprotocol"], "v5.channel.k8s.io", "{seen}");
    assert_eq!(seen["streams"], serde_json::json!(["to stdout\n", "to stderr\n", 3]), "{seen}");
    assert_eq!(seen["success"], 0, "{seen}");
    assert_eq!(seen["stdin"], serde_json::json!(["one\ntwo\nand after the end\n", 0]), "{seen}");
    let terminal = seen["terminal"].as_str().unwrap().replace('\r', "");
    assert!(terminal.contains("/dev/pts/") && terminal.contains("44 155"), "{seen}");
    assert_eq!(seen["large"], 3_000_000, "{seen}");
    assert_eq!(seen["refused"], 401, "{seen}");
}
