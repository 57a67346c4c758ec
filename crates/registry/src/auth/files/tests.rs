use super::*;

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

fn write(dir: &Path, name: &str, content: &Value) -> PathBuf {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content.to_string()).unwrap();
    path
}

fn entry(user: &str) -> Value {
    json!({ "auth": STANDARD.encode(format!("{user}:secret")) })
}

async fn user(files: &CredentialFiles, registry: &str, repository: &str) -> Option<String> {
    match files.lookup(registry, repository).await.unwrap() {
        Some(Credential::Password { user, password }) => {
            assert_eq!(password.expose(), "secret");
            Some(user)
        }
        None => None,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn podman_s_places_come_before_docker_s() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| Some(dir.path().join(path).to_str().unwrap().to_owned());
    let variable = |name: &str| match name {
        "XDG_RUNTIME_DIR" => at("run"),
        "HOME" => at("home"),
        _ => None,
    };
    let files = CredentialFiles::find_with(None, &variable);
    assert_eq!(user(&files, "r.example", "a").await, None);
    write(
        dir.path(),
        "home/.docker/config.json",
        &json!({ "auths": { "r.example": entry("docker"), "d.example": entry("docker") } }),
    );
    write(
        dir.path(),
        "home/.config/containers/auth.json",
        &json!({ "auths": { "r.example": entry("home") } }),
    );
    assert_eq!(user(&files, "r.example", "a").await.as_deref(), Some("home"));
    write(
        dir.path(),
        "run/containers/auth.json",
        &json!({ "auths": { "r.example": entry("run") } }),
    );
    assert_eq!(user(&files, "r.example", "a").await.as_deref(), Some("run"));
    assert_eq!(user(&files, "d.example", "a").await.as_deref(), Some("docker"));
    // A file that is named is the only one.
    let named = write(dir.path(), "own.json", &json!({ "auths": { "r.example": entry("own") } }));
    let files = CredentialFiles::find_with(Some(named), &variable);
    assert_eq!(user(&files, "r.example", "a").await.as_deref(), Some("own"));
    assert_eq!(user(&files, "d.example", "a").await, None);
    let by_variable = CredentialFiles::find_with(None, &|name| {
        (name == "REGISTRY_AUTH_FILE").then(|| at("own.json").unwrap())
    });
    assert_eq!(user(&by_variable, "r.example", "a").await.as_deref(), Some("own"));
}

#[tokio::test]
async fn keys_may_be_old_urls_or_parts_of_a_registry() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(
        dir.path(),
        "c.json",
        &json!({ "auths": {
        "https://index.docker.io/v1/": entry("hub"),
        "r.example:5000": entry("all"),
        "r.example:5000/team": entry("team"),
        "https://u.example/v2/": entry("url"),
        "empty.example": {},
    } }),
    );
    let files = CredentialFiles::find_with(Some(path), &|_| None);
    for (registry, repository, expected) in [
        ("docker.io", "library/debian", Some("hub")),
        ("r.example:5000", "x", Some("all")),
        ("r.example:5000", "team/x/y", Some("team")),
        ("r.example:5000", "teams", Some("all")),
        ("r.example", "x", None),
        ("u.example", "x", Some("url")),
        ("empty.example", "x", None),
        ("hub", "r.example:5000", None),
    ] {
        assert_eq!(user(&files, registry, repository).await.as_deref(), expected, "{registry}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let missing = CredentialFiles::find_with(Some(dir.path().join("none.json")), &|_| None);
    let error = missing.lookup("r", "a").await.unwrap_err();
    assert!(error.to_string().contains("none.json"), "{error}");
    for (content, says) in [
        ("{\"auths\": \"hunter2\"}", "line 1"),
        ("{\"auths\": {\"r\": {\"auth\": \"hunter2!\"}}}", "base64"),
    ] {
        let path = dir.path().join("bad.json");
        std::fs::write(&path, content).unwrap();
        let error =
            CredentialFiles::find_with(Some(path), &|_| None).lookup("r", "a").await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn helpers_are_asked_by_their_protocol() {
    let dir = tempfile::tempdir().unwrap();
    // Found by PATH, which a test can't set: the search is given to the shell
    // of one that is there.
    let helper = dir.path().join("docker-credential-inn-test");
    std::fs::write(
        &helper,
        "#!/bin/sh\nread server\ncase $server in\n\
         good) echo '{\"ServerURL\":\"good\",\"Username\":\"me\",\"Secret\":\"secret\"}';;\n\
         token) echo '{\"Username\":\"<token>\",\"Secret\":\"identity\"}';;\n\
         none) echo 'credentials not found in native keychain'; exit 1;;\n\
         odd) echo 'hunter2';;\n\
         *) echo 'locked: hunter2'; exit 1;;\nesac\n",
    )
    .unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let get = |server: &'static str| {
        let helper = helper.clone();
        async move { ask_program(&helper, "docker-credential-inn-test", server).await }
    };
    let password = Credential::Password { user: "me".to_owned(), password: Secret::new("secret") };
    assert_eq!(get("good").await.unwrap(), Some(password));
    assert_eq!(get("token").await.unwrap(), Some(Credential::Identity(Secret::new("identity"))));
    assert_eq!(get("none").await.unwrap(), None);
    for (server, says) in [("odd", "what a helper says"), ("locked", "exit status: 1")] {
        let error = get(server).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn a_helper_that_is_missing_or_no_name_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for (helper, says) in [("inn-absent", "not installed"), ("../x", "no helper's name")] {
        for content in [json!({ "credsStore": helper }), json!({ "credHelpers": { "r": helper } })]
        {
            let path = write(dir.path(), "c.json", &content);
            let files = CredentialFiles::find_with(Some(path), &|_| None);
            let error = files.lookup("r", "a").await.unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert!(error.to_string().contains(&format!("docker-credential-{helper}")), "{error}");
        }
    }
}
