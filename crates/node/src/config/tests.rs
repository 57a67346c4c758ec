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
    assert_eq!(config.log, "trace");
    assert_eq!(config.start_deadline, Duration::from_secs(90));
    assert_eq!(config.defaults.memory, Bytes::gib(1));
    assert_eq!(config.defaults.vcpus.get(), 3);
    assert_eq!(config.defaults.disk, Bytes::gib(2));
    assert_eq!(config.languages["python"], "py:3");
    assert_eq!(config.languages["golang"], "golang");
    assert_eq!(config.api_listen, ApiListen::Off);
    assert_eq!(config.paths.data_dir, PathBuf::from("/srv/inn"));
    assert!(config.sim_enabled);
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
    let (interval, keep) = (Duration::from_secs(5), Duration::from_secs(1800));
    assert_eq!(config.telemetry, TelemetryConfig { interval, keep });
    assert_eq!(config.exec_max_timeout, None);
    let file = "exec.max_timeout = '300s'\ntelemetry.interval = '1s'\ntelemetry.keep = '5m'";
    let config = load(file, &[], &[]).unwrap();
    let (interval, keep) = (Duration::from_secs(1), Duration::from_secs(300));
    assert_eq!(config.telemetry, TelemetryConfig { interval, keep });
    assert_eq!(config.exec_max_timeout, Some(Duration::from_secs(300)));
    let example = load(include_str!("../../../../packaging/agent.toml"), &[], &[]).unwrap();
    assert_eq!(example.exec_max_timeout, config.exec_max_timeout);
    let config = load(file, &[("INN_EXEC_MAX_TIMEOUT", "none")], &[]).unwrap();
    assert_eq!(config.exec_max_timeout, None);
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let source =
        ConfigSource { file: Some("/nonexistent/agent.toml".into()), ..ConfigSource::default() };
    let error = Config::load_with(&source, &|_| None).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the configuration /nonexistent/agent.toml");
}
