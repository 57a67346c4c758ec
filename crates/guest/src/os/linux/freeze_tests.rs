use super::*;

fn mounted(minor: u32, target: &str, kind: &str) -> Mounted {
    Mounted {
        device: (if kind == "overlay" || kind == "proc" { 0 } else { 254 }, minor),
        root: "/".into(),
        target: target.into(),
        kind: kind.into(),
        source: "x".into(),
        read_only: target == "/ro",
    }
}

fn all() -> Vec<Mounted> {
    vec![
        mounted(1, "/", "ext4"),
        mounted(2, "/proc", "proc"),
        mounted(3, "/boot/efi", "vfat"),
        mounted(4, "/data", "xfs"),
        mounted(4, "/bind", "xfs"),
        mounted(5, "/ro", "ext4"),
    ]
}

#[test]
fn what_can_be_frozen_is_chosen_last_mounted_first() {
    assert_eq!(targets(&all(), &[], false).unwrap(), ["/data", "/"]);
    assert_eq!(targets(&all(), &["/bind".into()], false).unwrap(), ["/bind"]);
    for (name, kind) in
        [("/nowhere", "on which nothing is mounted"), ("/boot/efi", "no file"), ("/ro", "no file")]
    {
        let refusal = targets(&all(), &[name.into()], false).unwrap_err();
        assert!(format!("{refusal:?}").contains(kind), "{refusal:?}");
    }
}

#[test]
fn an_overlay_stands_for_the_disk_under_it() {
    let all = [mounted(1, "/", "overlay"), mounted(2, "/proc", "proc")];
    assert_eq!(targets(&all, &[], true).unwrap(), ["/"]);
    assert!(targets(&all, &[], false).is_err());
}

/// A frost over directories that are not frozen at all: thawing them fails,
/// and is passed over.
fn frost(count: usize) -> Arc<Frost> {
    let dir =
        |_| rustix::fs::open("/proc", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    Arc::new(Frost {
        targets: (0..count).map(|at| format!("/{at}")).collect(),
        state: Mutex::new(State::new((0..count).map(dir).collect())),
        changed: Condvar::new(),
        frozen: Arc::new(AtomicBool::new(true)),
    })
}

#[test]
fn one_that_refuses_thaws_all() {
    let frost = frost(3);
    let asked = std::cell::Cell::new(0);
    let result = frost.freeze_all(|_| {
        asked.set(asked.get() + 1);
        if asked.get() == 2 { Err(io::Error::from_raw_os_error(libc::EBUSY)) } else { Ok(()) }
    });
    assert!(format!("{:?}", result.unwrap_err()).contains("/1, which somebody else"));
    assert_eq!(asked.get(), 2);
    assert_eq!(lock(&frost.state).over, Some(Over::Failed));
    assert!(!frost.frozen.load(Ordering::Acquire));
}

#[test]
fn the_dead_man_thaws_though_the_freeze_hangs() {
    let frost = frost(2);
    let dead = Arc::clone(&frost);
    let dead = std::thread::spawn(move || dead.wait_until(Instant::now()));
    let dead = std::cell::Cell::new(Some(dead));
    // The first freeze lasts until the dead man was there.
    let result = frost.freeze_all(|_| {
        if let Some(dead) = dead.take() {
            dead.join().unwrap();
        }
        Ok(())
    });
    assert!(format!("{:?}", result.unwrap_err()).contains("in the time"));
    assert_eq!(lock(&frost.state).over, Some(Over::Expired));
    assert_eq!(frost.thaw(Over::Thawed), Some(Over::Expired));
}

#[test]
fn a_thaw_ends_the_dead_mans_wait() {
    let frost = frost(1);
    let dead = Arc::clone(&frost);
    let dead = std::thread::spawn(move || dead.wait_until(Instant::now() + MAX_DEAD_MAN));
    frost.freeze_all(|_| Ok(())).unwrap();
    assert_eq!(frost.thaw(Over::Thawed), None);
    dead.join().unwrap();
    assert_eq!(frost.thaw(Over::Thawed), Some(Over::Thawed));
    assert!(lock(&frost.state).dirs.is_empty(), "nothing is held open any more");
}

#[test]
fn only_so_long() {
    let freezer = Freezer::default();
    for odd in [Duration::ZERO, MAX_DEAD_MAN + Duration::from_millis(1)] {
        assert!(freezer.freeze(odd, &[]).is_err());
    }
    assert!(!freezer.is_frozen());
    assert_eq!(freezer.thaw(), Frozen::default());
}
