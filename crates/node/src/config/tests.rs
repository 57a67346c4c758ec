use std::collections::HashMap;

use super::*;

fn load(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, file).unwrap();
    let env: HashMap<String, String> =
        env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let source = ConfigSource {
        file: Some(path),
        flags: flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    };
    Config::load_with(&source, &|name| env.get(name).cloned()).map_err(|e| e.to_string())
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let file = "log = 'debug'\nstart_deadline = 90\n[defaults]\nmemory = '1GiB'\nvcpus = 2\n\
                [languages]\npython = 'py:3'\n[sim]\nenabled = true\n";
    let config = load(
        file,
        &[("INN_LOG", "warn"), ("INN_DEFAULTS_VCPUS", "3"), ("INN_DATA_DIR", "/srv/inn")],
        &[("log", "trace"), ("api_listen", "none")],
    )
    .unwrap();
    assert_eq!(config.live.log, "trace");
    assert_eq!(config.live.start_deadline, Duration::from_secs(90));
    assert_eq!(config.live.defaults.memory, Bytes::gib(1));
    assert_eq!(config.live.defaults.vcpus.get(), 3);
    assert_eq!(config.live.defaults.disk, Bytes::gib(2));
    assert_eq!(config.live.languages["python"], "py:3");
    assert_eq!(config.live.languages["golang"], "golang");
    assert_eq!(config.fixed.api_listen, ApiListen::Off);
    assert_eq!(config.fixed.paths.data_dir, PathBuf::from("/srv/inn"));
    assert!(config.fixed.sim_enabled);
}

#[test]
fn an_unknown_key_names_the_nearest_one() {
    for (file, flags, near) in [
        ("data_dri = '/x'", &[][..], "data_dir"),
        ("[kernel]\npth = '/x'", &[][..], "kernel.path"),
        ("[defaults]\nmemroy = '1GiB'", &[][..], "defaults.memory"),
        ("", &[("api_lisen", "none")][..], "api_listen"),
    ] {
        let error = load(file, &[], flags).unwrap_err();
        assert!(error.contains(&format!("did you mean `{near}`?")), "{error}");
    }
    let error = load("quux = 1", &[], &[]).unwrap_err();
    assert!(error.contains("there are data_dir, "), "{error}");
}

#[test]
fn a_bad_value_names_its_key_and_where_it_stands() {
    for (key, value) in [
        ("data_dir", "relative"),
        ("log", "inn=shouting"),
        ("log_format", "xml"),
        ("api_listen", "here"),
        ("defaults.vcpus", "0"),
        ("defaults.memory", "lots"),
        ("start_deadline", "0"),
        ("accel", "fast"),
        ("telemetry.interval", "0"),
        ("telemetry.keep", "for ever"),
        ("exec.max_timeout", "no"),
        ("sim.enabled", "maybe"),
        ("node_id", "Not A Name"),
    ] {
        let error = load("", &[], &[(key, value)]).unwrap_err();
        assert!(error.contains(key) && error.contains(value), "{error}");
        assert!(error.contains("the flags"), "{error}");
    }
    let error = load("", &[("INN_ACCEL", "warp")], &[]).unwrap_err();
    assert!(error.contains("INN_ACCEL"), "{error}");
    let error = load("log = [1]", &[], &[]).unwrap_err();
    assert!(error.contains("agent.toml"), "{error}");
    let error = load("log = ", &[], &[]).unwrap_err();
    assert!(error.contains("is not TOML"), "{error}");
}

#[test]
fn telemetry_and_execs_have_their_times() {
    let config = load("", &[], &[]).unwrap();
    let (interval, keep) = (Duration::from_secs(10), Duration::from_secs(1800));
    assert_eq!(config.live.telemetry, TelemetryConfig { interval, keep });
    assert_eq!(config.live.exec_max_timeout, None);
    let file = "exec.max_timeout = '300s'\ntelemetry.interval = '1s'\ntelemetry.keep = '5m'";
    let config = load(file, &[], &[]).unwrap();
    let (interval, keep) = (Duration::from_secs(1), Duration::from_secs(300));
    assert_eq!(config.live.telemetry, TelemetryConfig { interval, keep });
    assert_eq!(config.live.exec_max_timeout, Some(Duration::from_secs(300)));
    let config = load(file, &[("INN_EXEC_MAX_TIMEOUT", "none")], &[]).unwrap();
    assert_eq!(config.live.exec_max_timeout, None);
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let source =
        ConfigSource { file: Some("/nonexistent/agent.toml".into()), ..ConfigSource::default() };
    let error = Config::load_with(&source, &|_| None).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the configuration /nonexistent/agent.toml");
}

#[test]
fn the_example_holds_every_key_and_its_default() {
    let bare = load("", &[], &[]).unwrap();
    let packaged = load(&example(), &[], &[]).unwrap();
    let set: Vec<_> = packaged.settings.keys().copied().collect();
    assert_eq!(set, ["exec.max_timeout"]);
    assert_eq!(packaged.live.exec_max_timeout, Some(Duration::from_secs(300)));
    // With every line in force it says what holds anyway, but for the examples
    // of what has no default, and for the place of an ordinary user's files.
    let all: String = example()
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with(' '))
        .map(|line| format!("{line}\n"))
        .collect();
    let all = load(&all, &[], &[]).unwrap();
    assert_eq!(all.live, bare.live);
    assert_eq!(all.settings.len() + 1, KEYS.len());
    for effective in all.effective() {
        if let Preset::Is(text) = effective.key.default {
            assert_eq!(effective.value.as_deref(), Some(text));
        }
    }
    for key in KEYS {
        assert!(documentation().contains(&format!("| `{}` |", key.name)), "{}", key.name);
        assert!(key.about.ends_with('.'), "{}: a sentence", key.name);
    }
}

/// A value that is not the default.
fn another(key: &Key) -> &'static str {
    match (key.name, key.kind) {
        ("log", _) => "trace",
        ("log_format", _) => "json",
        ("api_listen", _) => "none",
        ("accel", _) => "tcg",
        ("runtimes.order", _) => "krun, qemu",
        ("runtimes.libvirt.uri", _) => "qemu:///session",
        ("runtimes.libvirt.prefix", _) => "/one=/another",
        ("runtimes.libvirt.architecture", _) => "aarch64",
        ("runtimes.libvirt.bridge", _) => "br7",
        ("runtimes.libvirt.subnet", _) => "192.0.2.0/24",
        ("traces.endpoint", _) => "https://another",
        ("tls.client_scope", _) => "read",
        ("vmm.uids", _) => "100000-165535",
        ("network.mode", _) => "none",
        ("network.foreign", _) => "docker-user",
        ("ports.reserved", _) => "22/tcp",
        ("registries.mirrors", _) => "one.example=another.example",
        ("registries.signed_by", _) => "/another.pub",
        ("api.header_size" | "api.headers", _) => "12345",
        (_, Kind::Text) => "another",
        (_, Kind::Path) => "/another",
        (_, Kind::Duration) => "17s",
        (_, Kind::Size) => "123MiB",
        (_, Kind::Number) => "7",
        (_, Kind::Switch) if key.default.text() == Some("true") => "false",
        (_, Kind::Switch) => "true",
    }
}

/// A field that no row sets would keep a value that nobody chose.
#[test]
fn every_field_has_its_row_and_every_row_its_field() {
    let leaves = |config: &Config| -> Vec<String> {
        let shown = format!("{:#?}{:#?}", config.fixed, config.live);
        let leaf =
            |line: &&str| !line.trim_end_matches(',').ends_with(['{', '(', '[', '}', ')', ']']);
        // One line for what is set and what is not.
        let shown = shown.replace("Some(\n", "Some(");
        // Of a list the words alone may be the same in another order.
        let lists = shown.split("[\n").map(|after| match after.split_once(']') {
            Some((list, _)) if !list.contains(['{', '(', ':']) => &after[list.len()..],
            _ => after,
        });
        let shown = lists.collect::<Vec<_>>().join("[\n");
        shown.lines().filter(leaf).map(str::to_owned).collect()
    };
    let flags: Vec<_> = KEYS.iter().map(|key| (key.name, another(key))).collect();
    let bare = load("", &[], &[]).unwrap();
    let all = load("", &[], &flags).unwrap();
    let untouched: Vec<_> =
        leaves(&all).into_iter().filter(|leaf| leaves(&bare).contains(leaf)).collect();
    assert!(untouched.is_empty(), "no key sets {untouched:?}");
    for (key, value) in flags {
        let one = load("", &[], &[(key, value)]).unwrap();
        let key = KEYS.iter().find(|k| k.name == key).unwrap();
        let (fixed, live) = (one.fixed != bare.fixed, one.live != bare.live);
        assert_eq!((fixed, live), (!key.is_live(), key.is_live()), "{}", key.name);
    }
}

#[test]
fn a_reload_changes_what_is_live_and_names_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    write("log = 'debug'\nsim.enabled = true\n");
    let source = ConfigSource {
        file: Some(path.clone()),
        flags: vec![("stop_timeout".into(), "9s".into())],
    };
    let shared = SharedConfig::new(Config::load(&source).unwrap());
    let mut changes = shared.subscribe();

    write("log = 'warn'\nstop_timeout = '1s'\ndefaults.vcpus = 4\naccel = 'tcg'\n");
    let reloaded = shared.reload().unwrap();
    assert_eq!(reloaded.changed, ["log", "defaults.vcpus"], "flags still come first");
    assert_eq!(reloaded.waiting, ["accel", "sim.enabled"]);
    assert!(changes.has_changed().unwrap());
    assert_eq!(changes.borrow_and_update().defaults.vcpus.get(), 4);
    assert_eq!(shared.live().stop_timeout, Duration::from_secs(9));
    assert!(shared.sim_enabled && shared.accel == AccelChoice::Auto, "until a restart");

    let before = shared.live();
    for wrong in ["log = ", "lgo = 'info'", "log = 'info'\nstart_deadline = 'soon'"] {
        write(wrong);
        let error = shared.reload().unwrap_err().to_string();
        assert!(error.contains("agent.toml"), "{error}");
        assert_eq!(shared.live(), before, "nothing of it holds");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(shared.reload(), Err(ConfigError::Read { .. })));
    assert!(!changes.has_changed().unwrap());

    write("log = 'warn'\ndefaults.vcpus = 4\nsim.enabled = true\n");
    let reloaded = shared.reload().unwrap();
    assert_eq!(reloaded, Reloaded::default(), "as it was and as it runs");
}
