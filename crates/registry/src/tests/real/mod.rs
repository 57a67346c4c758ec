//! Against the docker-registry of the distribution, filled by skopeo. They are
//! looked for in INN_TEST_DOCKER_REGISTRY and in PATH; without them the tests
//! skip.

mod daemon;
mod layout;
mod tokens;

use std::path::PathBuf;

use self::daemon::{Access, Daemon, Programs};
use self::layout::Layout;
use super::*;
use crate::fetch::FailureClass;
use crate::{CredentialFiles, Reference};

/// bcrypt of it: what htpasswd -B makes.
const PASSWORD: &str = "open sesame";
const HTPASSWD: &str = "me:$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n";

fn reference(daemon: &Daemon, name: &str) -> Reference {
    format!("{}/{name}", daemon.host()).parse().unwrap()
}

/// Resolves and pulls all layers.
async fn pull_by(
    settings: RegistrySettings,
    reference: &Reference,
) -> Result<(Resolved, Vec<Vec<u8>>), RegistryError> {
    let resolved = client(settings).resolve(reference, &Platform::host()).await?;
    let mut layers = Vec::new();
    for layer in &resolved.layers {
        let bytes = pull(&resolved, layer).await?;
        assert_eq!(digest(&bytes), layer.digest);
        layers.push(bytes);
    }
    Ok((resolved, layers))
}

fn credentials(dir: &std::path::Path, host: &str, password: &str) -> CredentialFiles {
    use base64::Engine;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("me:{password}"));
    let path: PathBuf = dir.join("auth.json");
    std::fs::write(&path, json!({ "auths": { host: { "auth": auth } } }).to_string()).unwrap();
    CredentialFiles::find_with(Some(path), &|_| None)
}

#[tokio::test]
async fn tags_digests_indexes_and_docker_s_manifests_are_pulled() {
    let Some(programs) = Programs::find("tags_digests_indexes_and_docker_s_manifests_are_pulled")
    else {
        return;
    };
    let daemon = Daemon::start(&programs, Access::Open).await;
    let layout = Layout::new(&[3_000_000, 10]);
    programs.push(&layout, "multi", &daemon, "team/app:multi", "--all").await;
    programs.push(&layout, "ours", &daemon, "team/app:oci", "").await;
    programs.push(&layout, "ours", &daemon, "team/app:docker", "--format v2s2").await;

    let (multi, layers) = pull_by(settings(), &reference(&daemon, "team/app:multi")).await.unwrap();
    assert!(layers == layout.layers);
    assert_eq!((multi.digest, multi.manifest_digest), (layout.index, layout.image));
    let (oci, layers) = pull_by(settings(), &reference(&daemon, "team/app:oci")).await.unwrap();
    assert!(oci.digest == layout.image && layers == layout.layers);
    let (docker, layers) =
        pull_by(settings(), &reference(&daemon, "team/app:docker")).await.unwrap();
    assert!(docker.digest != layout.image && docker.layers[0].media_type.contains("docker"));
    assert!(layers == layout.layers);
    for digest in [layout.index, layout.image, docker.digest] {
        let (again, _) =
            pull_by(settings(), &reference(&daemon, &format!("team/app@{digest}"))).await.unwrap();
        assert_eq!(again.digest, digest);
    }

    // From the middle, as after a cut.
    let mut rest = multi.repository.blob(&multi.layers[0], 2_999_000);
    let mut bytes = Vec::new();
    while let Some(part) = rest.next().await {
        bytes.extend_from_slice(&part.unwrap());
    }
    assert!(bytes == layout.layers[0][2_999_000..]);

    let error = pull_by(settings(), &reference(&daemon, "team/app:none")).await.unwrap_err();
    assert_eq!(error.class, FailureClass::NotFound, "{error}");
    let other = Platform { architecture: "riscv64".to_owned(), ..Platform::host() };
    let error = client(settings())
        .resolve(&reference(&daemon, "team/app:multi"), &other)
        .await
        .unwrap_err();
    assert_eq!(error.class, FailureClass::Unsupported, "{error}");
}

#[tokio::test]
async fn a_registry_with_passwords_wants_the_right_one() {
    let Some(programs) = Programs::find("a_registry_with_passwords_wants_the_right_one") else {
        return;
    };
    let daemon = Daemon::start(&programs, Access::Htpasswd(HTPASSWD)).await;
    let layout = Layout::new(&[1000]);
    let options = format!("--dest-creds=me:{PASSWORD}");
    programs.push_with(&layout, "ours", &daemon, "a:1", &[&options]).await;
    let dir = tempfile::tempdir().unwrap();
    let name = reference(&daemon, "a:1");
    let with = |credentials| RegistrySettings { credentials, ..settings() };
    let (_, layers) =
        pull_by(with(credentials(dir.path(), daemon.host(), PASSWORD)), &name).await.unwrap();
    assert!(layers == layout.layers);
    let wrong =
        pull_by(with(credentials(dir.path(), daemon.host(), "wrong")), &name).await.unwrap_err();
    assert!(wrong.to_string().contains("does not take the credentials"), "{wrong}");
    let none = pull_by(settings(), &name).await.unwrap_err();
    assert!(none.to_string().contains("there are no credentials"), "{none}");
    assert_eq!((wrong.class, none.class), (FailureClass::Unauthorised, FailureClass::Unauthorised));
}

#[tokio::test]
async fn a_registry_with_an_authority_of_its_own_is_trusted_by_its_file() {
    let Some(programs) =
        Programs::find("a_registry_with_an_authority_of_its_own_is_trusted_by_its_file")
    else {
        return;
    };
    let daemon = Daemon::start(&programs, Access::Tls).await;
    let layout = Layout::new(&[1000]);
    let options = format!("--dest-cert-dir={}", daemon.ca_dir().display());
    programs.push_with(&layout, "ours", &daemon, "a:1", &[&options]).await;
    let name = reference(&daemon, "a:1");
    let mut trusting = settings();
    trusting.fetch.plain_http = PlainHttp::default();
    let error = pull_by(trusting.clone(), &name).await.unwrap_err();
    assert_eq!(error.class, FailureClass::Tls, "{error}");
    trusting.fetch.ca_file = Some(daemon.ca_dir().join("ca.crt"));
    let (_, layers) = pull_by(trusting, &name).await.unwrap();
    assert!(layers == layout.layers);
}

#[tokio::test]
async fn a_registry_with_tokens_takes_those_of_its_realm() {
    let Some(programs) = Programs::find("a_registry_with_tokens_takes_those_of_its_realm") else {
        return;
    };
    let realm = tokens::Realm::start().await;
    let daemon = Daemon::start(&programs, realm.access()).await;
    let layout = Layout::new(&[1000]);
    programs
        .push(
            &layout,
            "ours",
            &daemon,
            "team/a:1",
            &format!("--dest-creds=me:{}", tokens::PASSWORD),
        )
        .await;
    let name = reference(&daemon, "team/a:1");
    let dir = tempfile::tempdir().unwrap();
    let with = |password| RegistrySettings {
        credentials: credentials(dir.path(), daemon.host(), password),
        ..settings()
    };
    let before = realm.handed_out();
    let (_, layers) = pull_by(with(tokens::PASSWORD), &name).await.unwrap();
    assert!(layers == layout.layers);
    assert_eq!(realm.handed_out(), before + 1, "one for all of a pull");
    let wrong = pull_by(with("wrong"), &name).await.unwrap_err();
    assert_eq!(wrong.class, FailureClass::Unauthorised, "{wrong}");
}

#[tokio::test]
async fn a_mirror_stands_in_for_a_registry_that_is_not_there() {
    let Some(programs) = Programs::find("a_mirror_stands_in_for_a_registry_that_is_not_there")
    else {
        return;
    };
    let daemon = Daemon::start(&programs, Access::Open).await;
    let layout = Layout::new(&[1000]);
    programs.push(&layout, "ours", &daemon, "hub/library/app:1", "").await;
    let mirrored = mirrored(&format!("docker.io={}/hub", daemon.host()));
    let (resolved, layers) = pull_by(mirrored, &"app:1".parse().unwrap()).await.unwrap();
    assert!(resolved.digest == layout.image && layers == layout.layers);
}
