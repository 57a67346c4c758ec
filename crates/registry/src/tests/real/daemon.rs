use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_host::process::{Process, Signal, SpawnSpec, Spawner, ask, find_program};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::layout::Layout;

/// For what takes a moment, on a host that is busy.
const LONG: Duration = Duration::from_secs(120);

pub(super) struct Programs {
    registry: PathBuf,
    skopeo: PathBuf,
}

impl Programs {
    pub(super) fn find(test: &str) -> Option<Self> {
        let registry = std::env::var_os("INN_TEST_DOCKER_REGISTRY")
            .map(PathBuf::from)
            .filter(|path| path.is_file())
            .or_else(|| find_program("docker-registry"));
        match (registry, find_program("skopeo")) {
            (Some(registry), Some(skopeo)) => Some(Self { registry, skopeo }),
            (None, _) => {
                println!(
                    "SKIPPED {test}: docker-registry is neither installed nor in INN_TEST_DOCKER_REGISTRY"
                );
                None
            }
            (_, None) => {
                println!("SKIPPED {test}: skopeo is not installed");
                None
            }
        }
    }

    /// Copies one image of a layout, with options that have spaces between.
    pub(super) async fn push(
        &self,
        layout: &Layout,
        image: &str,
        daemon: &Daemon,
        name: &str,
        options: &str,
    ) {
        // One that has a password in it is one option.
        let options: Vec<&str> = match options.starts_with("--dest-creds") {
            true => vec![options],
            false => options.split_whitespace().collect(),
        };
        self.push_with(layout, image, daemon, name, &options).await;
    }

    pub(super) async fn push_with(
        &self,
        layout: &Layout,
        image: &str,
        daemon: &Daemon,
        name: &str,
        options: &[&str],
    ) {
        let from = format!("oci:{}:{image}", layout.dir.path().display());
        let to = format!("docker://{}/{name}", daemon.host());
        let tls = if daemon.tls { "--dest-tls-verify=true" } else { "--dest-tls-verify=false" };
        let mut args = vec!["--insecure-policy", "copy", tls];
        args.extend_from_slice(options);
        args.extend([from.as_str(), to.as_str()]);
        let answer = ask(&self.skopeo, &args, b"", LONG).await.unwrap();
        assert!(
            answer.status.success(),
            "skopeo {args:?}: {}\n{}",
            String::from_utf8_lossy(&answer.stdout),
            daemon.log()
        );
    }
}

/// Who is let in.
pub(super) enum Access<'a> {
    Open,
    Htpasswd(&'a str),
    /// Everybody, by TLS under an authority of its own.
    Tls,
    Token {
        realm: String,
        certificate: &'a str,
    },
}

/// A docker-registry with a directory and a port of its own.
pub(super) struct Daemon {
    dir: tempfile::TempDir,
    process: Process,
    host: String,
    tls: bool,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself: its log said why.
        let _ = self.process.kill(Signal::KILL);
    }
}

impl Daemon {
    pub(super) async fn start(programs: &Programs, access: Access<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let tls = matches!(access, Access::Tls);
        let guard = match access {
            Access::Open => String::new(),
            Access::Htpasswd(users) => {
                std::fs::write(at("users"), users).unwrap();
                format!(
                    "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                    at("users").display()
                )
            }
            Access::Tls => {
                certificates(dir.path());
                format!(
                    "  tls:\n    certificate: {}\n    key: {}\n",
                    at("cert.pem").display(),
                    at("key.pem").display()
                )
            }
            Access::Token { realm, certificate } => {
                std::fs::write(at("realm.pem"), certificate).unwrap();
                format!(
                    "auth:\n  token:\n    realm: {realm}\n    service: test\n    issuer: realm\n    rootcertbundle: {}\n",
                    at("realm.pem").display()
                )
            }
        };
        let config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{guard}",
            at("data").display()
        );
        std::fs::write(at("config.yml"), config).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(at("log")).unwrap();
        let args = ["serve".into(), at("config.yml").into_os_string()];
        // It goes with the test, however that ends.
        let spec = SpawnSpec::new(&programs.registry, log).args(args).leased(true);
        let process = Spawner::start().unwrap().spawn(spec).await.unwrap();
        let mut daemon = Self { dir, process, host: String::new(), tls };
        daemon.host = daemon.listening().await;
        daemon
    }

    /// Its log says which port it was given.
    async fn listening(&self) -> String {
        let mut again = tokio::time::interval(Duration::from_millis(20));
        let wait = async {
            loop {
                again.tick().await;
                let log = self.log();
                let told = log.split("listening on ").nth(1).and_then(|rest| {
                    rest.split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').next()
                });
                if let Some(host) = told.filter(|host| host.contains(':')) {
                    return host.to_owned();
                }
            }
        };
        tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("{}", self.log()))
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Where `ca.crt` is, and nothing else that skopeo would read.
    pub(super) fn ca_dir(&self) -> PathBuf {
        self.dir.path().join("ca")
    }
}

/// An authority in `ca/ca.crt`, and `cert.pem` and `key.pem` for loopback.
fn certificates(dir: &Path) {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    std::fs::create_dir(dir.join("ca")).unwrap();
    std::fs::write(dir.join("ca/ca.crt"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(dir.join("cert.pem"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
}
