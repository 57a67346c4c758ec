use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use super::*;

/// Far beyond what any of this takes, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn log(dir: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap()
}

fn shell(dir: &Path, script: &str) -> SpawnSpec {
    SpawnSpec::new("/bin/sh", log(dir)).args(["-c", script])
}

#[tokio::test]
async fn a_child_tells_its_exit_status_and_is_reaped() {
    let dir = tempfile::tempdir().unwrap();
    let spawner = Spawner::start().unwrap();
    let process = spawner.spawn(shell(dir.path(), "echo out; echo err >&2; exit 7")).await.unwrap();
    let Exit::Status(status) = process.wait().await.unwrap() else { panic!("status lost") };
    assert_eq!(status.code(), Some(7));
    assert!(!process.is_alive());
    assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), "out\nerr\n");
    assert!(!Path::new(&format!("/proc/{}", process.identity().pid)).exists(), "a zombie");
    process.kill(Signal::TERM).unwrap();
}

#[tokio::test]
async fn an_opened_process_is_waited_for_and_killed_without_being_a_child() {
    let dir = tempfile::tempdir().unwrap();
    let spawner = Spawner::start().unwrap();
    let child = spawner.spawn(shell(dir.path(), "exec sleep 600")).await.unwrap();
    let opened = Process::open(child.identity()).unwrap();
    assert!(opened.is_alive());
    opened.kill(Signal::KILL).unwrap();
    assert_eq!(opened.wait().await.unwrap(), Exit::Unknown);
    let Exit::Status(status) = child.wait().await.unwrap() else { panic!("status lost") };
    assert_eq!(status.signal(), Some(9));
    assert!(matches!(Process::open(child.identity()), Err(OpenError::Gone { .. })));
}

#[tokio::test]
async fn another_process_under_the_same_pid_is_not_opened() {
    let own = ProcessIdentity::of_pid(std::process::id()).unwrap();
    assert!(Process::open(&own).is_ok());
    let older = ProcessIdentity { start_ticks: own.start_ticks - 1, ..own.clone() };
    assert!(matches!(Process::open(&older), Err(OpenError::Gone { .. })));
    let other_boot = ProcessIdentity { host_boot_id: "0".to_owned(), ..own };
    assert!(matches!(Process::open(&other_boot), Err(OpenError::Gone { .. })));
}

#[tokio::test]
async fn only_named_descriptors_and_no_secrets_are_inherited() {
    let dir = tempfile::tempdir().unwrap();
    let spawner = Spawner::start().unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    // Not close-on-exec, as a careless library would have left it.
    let leaked = rustix::io::dup(&ours).unwrap();
    let leaked_number = std::os::fd::AsRawFd::as_raw_fd(&leaked);

    // dash knows descriptors of one digit only.
    let mut spec = SpawnSpec::new("/bin/bash", log(dir.path()));
    let number = spec.inherit(theirs.into());
    let script = format!(
        "test -e /proc/self/fd/{leaked_number} && echo leaked; env | grep -c CARGO; echo hello >&{number}"
    );
    let process = spawner.spawn(spec.args(["-c", &script])).await.unwrap();
    process.wait().await.unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = String::new();
    // Ends only since the agent's copy of the other end is closed, too.
    ours.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello\n");
    assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), "0\n");
}

#[tokio::test]
async fn a_process_that_cannot_start_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let spawner = Spawner::start().unwrap();
    let error = spawner.spawn(SpawnSpec::new("/nonexistent", log(dir.path()))).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "the program is this test itself, with arguments of its own"
)]
async fn a_leased_process_outlives_its_handle_but_not_the_spawners_process() {
    // A second process plays the agent: this test's own binary, running the
    // ignored test below, which leases a sleep and then aborts.
    let dir = tempfile::tempdir().unwrap();
    let status = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::tests::lease_and_abort", "--ignored"])
        .env("INN_TEST_DIR", dir.path())
        .status()
        .await
        .unwrap();
    assert!(!status.success());
    let text = fs::read_to_string(dir.path().join("identity")).unwrap();
    let (pid, ticks) = text.split_once(' ').unwrap();
    let identity = ProcessIdentity {
        pid: pid.parse().unwrap(),
        start_ticks: ticks.parse().unwrap(),
        host_boot_id: host_boot_id().unwrap().to_owned(),
    };
    match Process::open(&identity) {
        Err(OpenError::Gone { .. }) => {}
        Err(error) => panic!("{error}"),
        Ok(process) => {
            tokio::time::timeout(PATIENCE, process.wait()).await.expect("it lives on").unwrap();
        }
    }
}

#[tokio::test]
#[ignore = "played by the test above in a process of its own"]
async fn lease_and_abort() {
    let Some(dir) = std::env::var_os("INN_TEST_DIR") else { return };
    let dir = Path::new(&dir);
    let spawner = Spawner::start().unwrap();
    let process = spawner.spawn(shell(dir, "exec sleep 600").leased(true)).await.unwrap();
    let identity = process.identity().clone();
    drop((process, spawner));
    assert!(Process::open(&identity).unwrap().is_alive());
    fs::write(dir.join("identity"), format!("{} {}", identity.pid, identity.start_ticks)).unwrap();
    std::process::abort();
}

#[tokio::test]
async fn run_gives_output_or_the_reason() {
    let output = run(Program::E2FSCK, ["-V"], PATIENCE).await.unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("e2fsck"), "{output:?}");

    let error = run(Program::E2FSCK, ["-fn", "/nonexistent"], PATIENCE).await.unwrap_err();
    assert!(matches!(error, RunError::Failed { .. }));
    let text = error.to_string();
    assert!(text.starts_with("e2fsck failed with exit status: 8"), "{text}");
    assert!(text.contains("/nonexistent"), "{text}");
}

#[test]
fn run_blocking_keeps_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    // Opening a FIFO that nobody writes to never returns.
    let error = run_blocking(
        Program::E2FSCK,
        [OsStr::new("-fn"), fifo.as_os_str()],
        Duration::from_millis(300),
    );
    assert!(matches!(error, Err(RunError::Deadline { .. } | RunError::Failed { .. })), "{error:?}");
}

#[tokio::test]
async fn a_confined_process_has_a_user_of_its_own_and_no_way_back() {
    let dir = tempfile::tempdir().unwrap();
    let spawner = Spawner::start().unwrap();
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!(
            "SKIPPED a_confined_process_has_a_user_of_its_own_and_no_way_back, its user: not root"
        );
    }
    let user = root.then(|| User { uid: 1_879_048_192, groups: vec![1_879_048_193] });
    let confined = Confined { user, no_new_privileges: true, ..Confined::default() };
    let script = "cat /proc/self/status; ulimit -c; cat /root/x /etc/shadow; kill -0 1";
    let spec = shell(dir.path(), script).leased(true).confined(confined);
    let process = spawner.spawn(spec).await.unwrap();
    process.wait().await.unwrap();
    let said = fs::read_to_string(dir.path().join("log")).unwrap();
    let has = |line: &str| said.lines().any(|l| l == line);
    assert!(has("NoNewPrivs:\t1") && has("0"), "{said}");
    if root {
        assert!(has("Uid:\t1879048192\t1879048192\t1879048192\t1879048192"), "{said}");
        assert!(has("Gid:\t1879048192\t1879048192\t1879048192\t1879048192"), "{said}");
        assert!(said.contains("Groups:\t1879048193"), "{said}");
        assert!(has("CapEff:\t0000000000000000"), "{said}");
        assert!(has("CapPrm:\t0000000000000000"), "{said}");
        assert_eq!(said.matches("ermission denied").count(), 2, "{said}");
        assert!(said.contains("not permitted"), "{said}");
    }
}

#[tokio::test]
async fn a_jail_holds_its_programs_and_what_they_need() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED jail: only root may make mount namespaces");
        return;
    }
    let programs = ["/usr/bin/ls", "/usr/bin/head"].map(std::path::PathBuf::from);
    let jail = match Jail::make(&programs) {
        Ok(jail) => std::sync::Arc::new(jail),
        Err(error) => {
            println!("SKIPPED jail: {error}: {}", std::error::Error::source(&error).unwrap());
            return;
        }
    };
    assert!(jail.is_of_today(&programs));
    assert!(!jail.is_of_today(&["/usr/bin/cat".into()]), "another program needs another");
    let dir = tempfile::tempdir().unwrap();
    let spawner = Spawner::start().unwrap();
    let user = Some(User { uid: 1_879_000_003, groups: Vec::new() });
    let said = async |program: &str, argument: &Path| {
        fs::write(dir.path().join("log"), "").unwrap();
        let (jail, user) = (Some(std::sync::Arc::clone(&jail)), user.clone());
        let confined = Confined { jail, user, no_new_privileges: true, ..Confined::default() };
        let spec = SpawnSpec::new(program, log(dir.path())).args([argument]).confined(confined);
        let process = spawner.spawn(spec).await.unwrap();
        let Exit::Status(status) = process.wait().await.unwrap() else { panic!("status lost") };
        (status.success(), fs::read_to_string(dir.path().join("log")).unwrap())
    };
    let (listed, root) = said("/usr/bin/ls", Path::new("/")).await;
    assert!(listed, "{root}");
    assert!(root.lines().any(|name| name == "usr") && !root.contains("home"), "{root}");
    let (_, programs) = said("/usr/bin/ls", Path::new("/usr/bin")).await;
    assert_eq!(programs, "head\nls\n");
    // Of all processes it sees itself.
    let (_, processes) = said("/usr/bin/ls", Path::new("/proc")).await;
    assert_eq!(processes.lines().filter(|name| name.parse::<u32>().is_ok()).count(), 1);
    let (_, mounts) = said("/usr/bin/head", Path::new("/proc/self/mountinfo")).await;
    let read_only =
        |line: &str| line.split(' ').nth(5).is_some_and(|flags| flags.starts_with("ro"));
    assert!(mounts.lines().all(|line| read_only(line) || line.contains(" /proc ")), "{mounts}");
    let secret = dir.path().join("secret");
    fs::write(&secret, "x").unwrap();
    assert!(!said("/usr/bin/head", &secret).await.0);
}
