//! A guest agent that is an ordinary process: what it tells of its machine,
//! and that it does not change it.

use std::time::{Duration, SystemTime};

use inn_node::guest::{
    DiskMount, ExecEvent, GuestError, NetworkSetup, Password, RefusedKind, ShutdownKind,
};

use crate::guest::{TestGuest, patiently, shell};

/// Harmless even to a guest that would do them.
#[tokio::test]
async fn it_does_not_change_a_machine_that_is_not_its_own() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let nobody = "inn-nobody-of-this-name";
    let nowhere = guest.path("nowhere");
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let mount =
        DiskMount { serial: nobody.into(), target: nowhere.clone(), ..DiskMount::default() };
    let mut errors = Vec::new();
    macro_rules! try_each {
        ($($call:expr),+ $(,)?) => {$(
            errors.push((stringify!($call), patiently($call).await.map(drop)));
        )+};
    }
    try_each![
        session.set_password(nobody, Password::Clear("x".to_owned())),
        session.set_hostname(hostname.trim()),
        session.set_clock(SystemTime::now()),
        session.apply_network(NetworkSetup::default(), Duration::from_secs(5)),
        session.confirm_network(),
        session.freeze(Duration::from_secs(1), vec![nowhere.clone()]),
        session.thaw(),
        session.ssh_keys(nobody),
        session.set_ssh_keys(nobody, vec![], false),
        session.grow_disk(&nowhere),
        session.mount_disk(mount),
        session.unmount(&nowhere),
    ];
    for (call, result) in errors {
        let Err(error @ GuestError::Refused { kind, .. }) = &result else {
            panic!("{call}: {result:?}")
        };
        assert_eq!(*kind, RefusedKind::Denied, "{call}: {error}");
        let text = error.to_string();
        assert!(text.starts_with("the guest cannot ") && !text.contains("too old"), "{text}");
    }
    // And to end it is to end the process.
    session.shutdown(ShutdownKind::PowerOff, Duration::ZERO).await.unwrap();
    patiently(session.closed()).await;
}

#[tokio::test]
async fn a_reading_fits_the_machine() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let it = patiently(session.telemetry()).await.unwrap();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().next().unwrap().split_whitespace().nth(1).unwrap();
    assert_eq!(it.memory_total, total.parse::<u64>().unwrap() * 1024);
    assert!(it.memory_available > 0 && it.memory_available < it.memory_total);
    let cpus = std::fs::read_to_string("/proc/stat").unwrap();
    let cpus = cpus.lines().filter(|line| line.starts_with("cpu")).count() - 1;
    assert_eq!(it.cpus as usize, cpus);
    assert!(it.processes > 1 && it.uptime > Duration::from_secs(1));
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(it.hostname, hostname.trim());
    let root = it.mounts.iter().find(|mount| mount.target == "/").expect("the root is mounted");
    assert!(root.total > 0 && root.used <= root.total);
    let off = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().abs_diff(it.clock);
    assert!(off < Duration::from_secs(60), "{off:?}");
    assert!(!it.frozen);
    let psi = std::fs::exists("/proc/pressure/cpu").unwrap();
    assert!(it.pressure.is_none() || psi);
}

/// Readings come while an exec floods its output, which is read as fast as it
/// can be: here only that they do at all, and in order.
#[tokio::test]
async fn readings_come_during_a_flood() {
    let guest = TestGuest::start();
    let session = guest.session().await;
    let mut flood = patiently(session.exec(shell(1, "exec cat /dev/zero"))).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut bytes = 0;
        while let Ok(Some(event)) = flood.next().await {
            if let ExecEvent::Stdout(output) = event {
                bytes += output.bytes.len();
            }
        }
        bytes
    });
    let mut watch = patiently(session.watch_telemetry(Duration::from_millis(200))).await.unwrap();
    let mut before = Duration::ZERO;
    for _ in 0..5 {
        let it = patiently(watch.next()).await.unwrap().expect("the watch goes on");
        assert!(it.uptime > before);
        before = it.uptime;
    }
    session.close().await;
    assert!(patiently(reading).await.unwrap() > 1 << 20);
}
