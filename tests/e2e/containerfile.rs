//! Containerfiles, built by buildah where it is installed.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use inn_tests::{Fixtures, Host, Inn};

use crate::suite::host;

const SLOW: Duration = Duration::from_secs(300);

/// buildah with a storage of its own, which needs nothing of the kernel.
struct Buildah<'a> {
    host: &'a Host,
    dir: &'a Path,
    config: OsString,
}

impl<'a> Buildah<'a> {
    fn new(host: &'a Host, dir: &'a Path) -> Self {
        let config = dir.join("storage.conf");
        let text = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{0}/graph\"\nrunroot = \"{0}/run\"\n",
            dir.display()
        );
        fs::write(&config, text).unwrap();
        Self { host, dir, config: config.into_os_string() }
    }

    fn build(&self, name: &str, more: &[&str]) -> Inn {
        let context = self.dir.join("context").into_os_string();
        let build = self.host.inn(["image", "build", "--name", name]).args([context]).args(more);
        self.in_its_place(build)
    }

    fn in_its_place(&self, inn: Inn) -> Inn {
        inn.env("CONTAINERS_STORAGE_CONF", &self.config)
            .env("BUILDAH_ISOLATION", "chroot")
            .limit(SLOW)
    }
}

pub(crate) fn containerfiles_are_built_and_run() {
    let test = "containerfiles_are_built_and_run";
    if !inn_tests::host::finds_program("buildah") {
        println!("SKIPPED {test}: buildah is not installed");
        return;
    }
    let host = host();
    let dir = tempfile::tempdir().unwrap();
    let buildah = Buildah::new(host, dir.path());
    let context = dir.path().join("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("greeting"), "from a Containerfile\n").unwrap();
    let probe = Inn::new(Path::new("buildah"), vec!["from".into(), "scratch".into()]);
    let probe = buildah.in_its_place(probe).output();
    if probe.code != Some(0) {
        println!("SKIPPED {test}: buildah cannot work here: {}", probe.stderr.trim());
        return;
    }

    // Offline: from a layout, and from nothing at all.
    let layout = Fixtures::get().layout();
    let file = format!(
        "ARG WORD=none\nFROM oci:{}:mini\nARG WORD\nCOPY greeting /greeting\n\
         RUN echo $WORD >/word\nENV SAID=yes\nCMD [\"cat\", \"/greeting\", \"/word\"]\n",
        layout.display()
    );
    fs::write(context.join("Containerfile"), file).unwrap();
    let built = buildah.build("contained", &["--build-arg", "WORD=given"]).output();
    let built = built.expect_code(0);
    assert!(built.stdout.starts_with("contained sha256:"), "{built}");
    assert!(built.stderr.contains("STEP"), "what buildah says is shown: {built}");
    let said = host.inn(["run", "--rm", "contained"]).ok();
    assert_eq!(said, "from a Containerfile\ngiven\n");

    let scratch = dir.path().join("from-scratch");
    fs::write(&scratch, "FROM scratch\nCOPY greeting /only\nCMD [\"/only\"]\n").unwrap();
    let more = ["--no-cache", "-f", scratch.to_str().unwrap()];
    assert!(buildah.build("nothing-else", &more).ok().starts_with("nothing-else sha256:"));

    fs::write(&scratch, "FROM scratch\nCOPY absent /x\n").unwrap();
    buildah.build("broken", &more).refused(1, &["buildah builds no image", "from-scratch"]);
    let args = ["image", "delete", "contained", "nothing-else"];
    host.inn(args).ok();
}

pub(crate) fn without_buildah_its_package_is_named() {
    let host = host();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    let build = host.inn(["image", "build", "--name", "none"]).args([dir.path().as_os_str()]);
    build.env("PATH", "/nonexistent").refused(1, &["Containerfile", "apt-get install buildah"]);
}
