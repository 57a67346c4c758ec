use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use inn_tests::process::Inn;
use inn_tests::{Fixtures, host, leftovers, wait};

/// Nobody, and the group of no one (Debian policy 9.2.2).
pub(crate) const NOBODY: u32 = 65534;

/// What an ordinary user has: a home, a runtime directory, and copies of what
/// lies where only root may look.
pub(crate) struct User {
    dir: tempfile::TempDir,
}

impl User {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("inn-e2e-").tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        for (name, mode) in [("home", 0o755), ("run", 0o700), ("tmp", 0o700)] {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        fs::copy(host::binary(), dir.path().join("inn")).unwrap();
        fs::copy(Fixtures::get().oci_archive(), dir.path().join("mini.tar")).unwrap();
        let user = Self { dir };
        copy_readable(&Fixtures::get().kernels(), &user.path("kernels"));
        user
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn inn(&self, args: &[&str]) -> Inn {
        let id = NOBODY.to_string();
        let mut all: Vec<OsString> =
            ["--reuid", &id, "--regid", &id, "--clear-groups"].map(Into::into).into();
        all.push(self.path("inn").into());
        all.extend(args.iter().map(Into::into));
        Inn::new(Path::new("setpriv"), all)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("INN_API_LISTEN", "127.0.0.1:0")
            .env("INN_AUTOSTART", "0")
            .env("INN_ACCEL", "tcg")
            .env("INN_KERNEL_PATH", self.only_kernel())
            .dir(self.dir.path())
    }

    fn only_kernel(&self) -> PathBuf {
        let mut kernels = fs::read_dir(self.path("kernels")).unwrap();
        kernels.next().unwrap().unwrap().path()
    }
}

/// Copies files and directories so that everybody may read them.
fn copy_readable(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_readable(&entry.path(), &to);
        } else if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), &to).unwrap();
            fs::set_permissions(&to, Permissions::from_mode(0o644)).unwrap();
        }
    }
}

pub(crate) fn ordinary_user_needs_no_root() {
    let user = User::new();
    let agent = user.inn(&["agent"]).start();
    wait::until("the agent answers", || {
        (user.inn(&["vm", "list"]).output().code == Some(0)).then_some(())
    });
    user.inn(&["image", "import", "mini.tar", "--name", "mini"]).ok();
    let script = "id -u; cat /etc/marker; stat -c %a /tmp; stat -c %u:%g /srv/work";
    let out = user.inn(&["run", "--rm", "mini", "--", "sh", "-c", script]).ok();
    assert_eq!(out, "0\nmini, as imported\n1777\n1000:1000\n", "the image's owners are kept");

    user.inn(&["vm", "create", "--image", "mini", "--name", "mine"]).ok();
    let machine = leftovers::machines_of(user.dir.path());
    let status = fs::read_to_string(format!("/proc/{}/status", machine[0].pid)).unwrap();
    let uid = format!("Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}");
    assert!(status.lines().any(|l| l == uid), "{status}");
    assert!(user.path("home/.local/share/innkeeper").is_dir(), "XDG's place for data");
    assert!(user.path("run/innkeeper/api.sock").exists(), "XDG's place for sockets");

    user.inn(&["vm", "clean", "--all"]).ok();
    agent.signal(rustix::process::Signal::TERM);
    agent.wait(wait::PATIENCE).expect_code(0);
    wait::until("no process is left", || {
        leftovers::processes_of(user.dir.path()).is_empty().then_some(())
    });
    assert_eq!(leftovers::sockets_of(user.dir.path()), Vec::<String>::new());
    assert_eq!(leftovers::files_below(&user.path("run")), Vec::<PathBuf>::new());
    assert_eq!(leftovers::files_below(&user.path("tmp")), Vec::<PathBuf>::new());
}
