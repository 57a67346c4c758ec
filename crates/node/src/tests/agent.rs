use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use inn_vmm_sim::{Behaviour, SimRuntime};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::PATIENCE;
use super::client::TestClient;
use super::image::write_layout;
use crate::AgentError;
use crate::config::{Config, ConfigSource};
use crate::http::{self, Api};
use crate::node::{Node, Parts};
use crate::reload::ReloadError;
use crate::{hold, reconcile};

/// An agent of our own, with a life that can be ended and begun again.
pub(super) struct TestAgent {
    pub(super) dir: TempDir,
    pub(super) client: TestClient,
    pub(super) node: Arc<Node>,
    api: Option<Api>,
    flags: Vec<(String, String)>,
    pub(super) sim: SimRuntime,
}

impl TestAgent {
    /// With the image `base`, whose workload is `sleep infinity`.
    pub(super) async fn start() -> Self {
        Self::with(&[], Behaviour::default()).await
    }

    pub(super) async fn with(flags: &[(&str, &str)], behaviour: Behaviour) -> Self {
        Self::prepared(flags, behaviour, |_| {}).await
    }

    /// In a directory that `prepare` has seen first; `data` and `run` below it
    /// are the agent's.
    pub(super) async fn prepared(
        flags: &[(&str, &str)],
        behaviour: Behaviour,
        prepare: impl FnOnce(&Path),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let flags: Vec<_> =
            flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let sim = SimRuntime::new(move |_| behaviour.clone());
        let (node, api) = begin(dir.path(), &flags, sim.clone()).await;
        let client = TestClient::new(&node.config.paths.api_socket());
        let agent = Self { dir, client, node, api: Some(api), flags, sim };
        agent.import("base", &["sleep", "infinity"]).await;
        agent
    }

    pub(super) async fn import(&self, name: &str, cmd: &[&str]) {
        let layout = self.dir.path().join(format!("layout-{name}"));
        write_layout(&layout, cmd);
        let body = json!({ "path": layout, "name": name });
        let operation = self.client.post("/api/images/import", &body).await.ok();
        let id = operation["id"].as_str().unwrap();
        let mut version = 0;
        loop {
            let path = format!("/api/operations/{id}?wait=30s&version={version}");
            let operation = self.client.get(&path).await.ok();
            match operation["state"].as_str().unwrap() {
                "running" => version = operation["version"].as_u64().unwrap(),
                "succeeded" => return,
                _ => panic!("{operation}"),
            }
        }
    }

    /// Makes a VM with `more` in its request and waits for it to settle.
    pub(super) async fn create(&self, name: &str, more: Value) -> Value {
        self.client.post("/api/vms?wait=60s", &request(name, more)).await.ok()
    }

    pub(super) async fn vm(&self, name: &str) -> Value {
        self.client.get(&format!("/api/vms/{name}")).await.ok()
    }

    /// The VM once it is as `wanted` says.
    pub(super) async fn until(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let handle = self.node.vms.find(name).expect("the VM is there");
        let mut views = handle.watch();
        let changes = async {
            loop {
                views.borrow_and_update();
                let vm = self.client.get(&format!("/api/vms/{name}")).await;
                if vm.status == 200 && wanted(&vm.json()) {
                    return vm.json();
                }
                views.changed().await.expect("the VM is still there");
            }
        };
        let last = tokio::time::timeout(PATIENCE, changes).await;
        match last {
            Ok(vm) => vm,
            Err(_) => panic!("never as wanted: {:?}", handle.view()),
        }
    }

    /// All events, once these words are among them: events are kept a moment
    /// after what they tell.
    pub(super) async fn until_told(&self, words: &str) -> String {
        let told = async {
            loop {
                let events = self.client.get("/api/events?follow=false&limit=1000").await;
                let text = String::from_utf8_lossy(&events.body).into_owned();
                if text.contains(words) {
                    return text;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, told).await.expect("it is told")
    }

    /// The VM of that name, once it is another one than `before`, and runs.
    pub(super) async fn until_other(&self, name: &str, before: &Value) -> Value {
        let other = async {
            loop {
                let answer = self.client.get(&format!("/api/vms/{name}")).await;
                assert_eq!(answer.status, 200, "neither of the two is there");
                let vm = answer.json();
                if vm["id"] != before["id"] && vm["phase"] == "running" {
                    return vm;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, other).await.expect("another one comes")
    }

    pub(super) async fn until_gone(&self, name: &str) {
        if let Some(vm) = self.node.vms.find(name) {
            assert!(vm.wait_gone(PATIENCE).await.gone, "{:?}", vm.view());
        }
        assert_eq!(self.client.get(&format!("/api/vms/{name}")).await.problem().0, 404);
    }

    /// Ends this life as `kill -9` would, as far as one process can: nothing
    /// is told, and what the tasks had in hand is dropped.
    pub(super) async fn die(&mut self) {
        let api = self.api.take().expect("it lives");
        api.abort();
        self.node.closing.cancel();
        self.node.tasks.close();
        tokio::time::timeout(PATIENCE, self.node.tasks.wait()).await.expect("all tasks leave");
    }

    /// Whose next life has another configuration.
    pub(super) fn told(mut self, flags: &[(&str, &str)]) -> Self {
        self.flags =
            flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self
    }

    /// The next life, which finds the machines of this one and all that runs
    /// in them.
    pub(super) async fn live_on(self) -> Self {
        let sim = self.sim.clone();
        self.begin_again(sim).await
    }

    /// The next life, which knows of machines only what lies in the run
    /// directory, and whose machines behave otherwise.
    pub(super) async fn live_again(self, behaviour: Behaviour) -> Self {
        self.begin_again(SimRuntime::new(move |_| behaviour.clone())).await
    }

    pub(super) async fn begin_again(self, sim: SimRuntime) -> Self {
        self.at_rest().await.begin(sim).await
    }

    /// Between two lives: nobody has its files open.
    pub(super) async fn at_rest(mut self) -> AtRest {
        if self.api.is_some() {
            self.die().await;
        }
        let Self { dir, client, node, flags, sim, .. } = self;
        // Connections that were cut let go of it one after the other.
        let released = async {
            while Arc::strong_count(&node) > 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, released).await.expect("nobody else has the node");
        let store = node.store.clone();
        drop(node);
        store.close();
        AtRest { dir, client, flags, sim }
    }

    /// Of the lives to come.
    pub(super) fn set(&mut self, key: &str, value: &str) {
        self.flags.push((key.to_owned(), value.to_owned()));
    }

    /// As at SIGHUP.
    pub(super) async fn reload(&self) -> Result<(), ReloadError> {
        self.api.as_ref().expect("it lives").reload(&self.node).await.map(drop)
    }

    pub(super) fn tcp(&self) -> SocketAddr {
        *self.node.listens_at.get().expect("it listens over TCP")
    }

    pub(super) fn files_of_vms(&self) -> Vec<String> {
        let paths = &self.node.config.paths;
        [paths.vms(), paths.runs()]
            .iter()
            .flat_map(|dir| std::fs::read_dir(dir).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

/// An agent that does not run, and its files.
pub(super) struct AtRest {
    dir: TempDir,
    client: TestClient,
    flags: Vec<(String, String)>,
    sim: SimRuntime,
}

impl AtRest {
    pub(super) async fn live_on(self) -> TestAgent {
        let sim = self.sim.clone();
        self.begin(sim).await
    }

    pub(super) async fn live_again(self, behaviour: Behaviour) -> TestAgent {
        self.begin(SimRuntime::new(move |_| behaviour.clone())).await
    }

    async fn begin(self, sim: SimRuntime) -> TestAgent {
        let Self { dir, client, flags, .. } = self;
        let (node, api) = begin(dir.path(), &flags, sim.clone()).await;
        TestAgent { dir, client, node, api: Some(api), flags, sim }
    }
}

pub(super) fn request(name: &str, more: Value) -> Value {
    let mut request = json!({
        "name": name, "image": "base", "runtime": "sim", "start": true, "diskBytes": 16 << 20,
    });
    let (Value::Object(request_fields), Value::Object(more)) = (&mut request, more) else {
        panic!("an object");
    };
    request_fields.extend(more);
    request
}

/// The configuration of an agent below `dir`.
pub(super) fn config(dir: &Path, flags: &[(String, String)]) -> Config {
    let flag = |key: &str, value: String| (key.to_owned(), value);
    let mut all = vec![
        flag("data_dir", dir.join("data").display().to_string()),
        flag("runtime_dir", dir.join("run").display().to_string()),
        flag("api_listen", "none".to_owned()),
        flag("sim.enabled", "true".to_owned()),
        // What is about them says otherwise: all else is about VMs that boot.
        flag("templates.enabled", "false".to_owned()),
        // What has a network namespace of its own says otherwise.
        flag("network.mode", "user".to_owned()),
    ];
    all.extend(flags.iter().cloned());
    let file = dir.join("agent.toml");
    std::fs::write(&file, "").unwrap();
    let source = ConfigSource { file: Some(file), flags: all };
    // By the one variable that is also for tests: what reads them again finds it.
    let env = |name: &str| (name == "INN_FIRECRACKER").then(|| std::env::var(name).ok()).flatten();
    Config::load_with(&source, &env).unwrap()
}

async fn begin(dir: &Path, flags: &[(String, String)], sim: SimRuntime) -> (Arc<Node>, Api) {
    let config = config(dir, flags);
    let parts = Parts { guest_binary: b"no guest: its machines are simulated" };
    // A program that another test starts has the lock of the life before, too,
    // from its fork to its exec.
    let opened = async {
        loop {
            match Node::open(config.clone(), parts, sim.clone()).await {
                Err(AgentError::Lock(_)) => tokio::task::yield_now().await,
                opened => return opened.unwrap(),
            }
        }
    };
    let node = tokio::time::timeout(PATIENCE, opened).await.expect("the lock is free");
    hold::restore(&node).await.unwrap();
    reconcile::restore(&node).await.unwrap();
    let api = http::serve(&node, Default::default()).await.unwrap();
    (node, api)
}
