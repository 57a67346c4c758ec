//! Images from a registry: Debian's docker-registry, which skopeo has filled.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use inn_tests::process::Running;
use inn_tests::{Fixtures, Host, Inn, fixtures, wait};
use rustix::process::Signal;

/// Ends with this.
struct DockerRegistry {
    process: Option<Running>,
    port: u16,
}

impl DockerRegistry {
    /// `None`, said loudly, where it is not unpacked.
    fn start(test: &str, dir: &Path) -> Option<Self> {
        let named = std::env::var_os("INN_TEST_DOCKER_REGISTRY").map(PathBuf::from);
        let unpacked = fixtures::target_dir().join("test-docker-registry");
        let places = [unpacked, PathBuf::from("/")].map(|dir| dir.join("usr/bin/docker-registry"));
        let Some(program) = named.into_iter().chain(places).find(|path| path.exists()) else {
            println!("SKIPPED {test}: docker-registry is not there; scripts/test unpacks it");
            return None;
        };
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = dir.join("registry.yml");
        let data = dir.join("registry");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            data.display()
        );
        fs::write(&config, text).unwrap();
        let args = vec!["serve".into(), config.into_os_string()];
        let process = Inn::new(&program, args).start();
        wait::until("the registry answers", || TcpStream::connect(("127.0.0.1", port)).ok());
        Some(Self { process: Some(process), port })
    }

    fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/team/{name}", self.port)
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            process.signal(Signal::KILL);
            process.wait(wait::PATIENCE);
        }
    }
}

fn skopeo(args: &[&str]) -> String {
    Inn::new(Path::new("skopeo"), args.iter().map(Into::into).collect()).ok()
}

pub(crate) fn an_image_that_skopeo_pushed_is_pulled_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    let test = "an_image_that_skopeo_pushed_is_pulled_and_runs";
    let Some(registry) = DockerRegistry::start(test, dir.path()) else { return };
    let layout = Fixtures::get().layout();
    for (tag, name) in [("mini", "mini:1"), ("configured", "configured:1")] {
        let from = format!("oci:{}:{tag}", layout.display());
        let to = format!("docker://{}", registry.reference(name));
        skopeo(&["copy", "--quiet", "--dest-tls-verify=false", &from, &to]);
    }
    let host = Host::bare();
    host.start_agent();
    let reference = registry.reference("mini:1");
    let pulled = host.inn(["image", "pull", "--plain-http", &reference]).ok();
    let remote = format!("docker://{reference}");
    let inspect = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &remote];
    let digest = skopeo(&inspect).trim().to_owned();
    assert_eq!(pulled, format!("{reference} {digest}\n"));
    let marker = host.inn(["run", "--rm", &reference, "--", "cat", "/etc/marker"]).ok();
    assert_eq!(marker, "mini, as imported\n");

    // The same layers, another configuration; by its digest, under a name.
    let reference = registry.reference("configured:1");
    let remote = format!("docker://{reference}");
    let inspect = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &remote];
    let digest = skopeo(&inspect).trim().to_owned();
    let by_digest = registry.reference(&format!("configured@{digest}"));
    let pull = ["image", "pull", "--plain-http", "-q", "--name", "mine", &by_digest];
    assert_eq!(host.inn(pull).ok(), format!("mine {digest}\n"));

    let absent = registry.reference("mini:2");
    host.inn(["image", "pull", "--plain-http", &absent]).refused(1, &["team/mini:2", "check"]);
    // Without TLS nobody is spoken to unasked.
    host.inn(["image", "pull", &absent]).refused(1, &["team/mini:2", "plain_http"]);
    let left = fs::read_dir(host.data().join("images/partial")).unwrap().count();
    assert_eq!(left, 0, "partial downloads are left");
    host.finish();
}
