//! Where credentials are: docker's config.json, and what podman, skopeo and
//! buildah keep in auth.json (containers-auth.json(5)), which has its form.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use inn_host::process::{ask, find_program};
use serde::Deserialize;

use super::secret::{Credential, Secret};
use crate::fetch::{FailureClass, FetchError};

/// A helper may ask a locked key ring, but nobody is there to unlock it.
const HELPER_DEADLINE: Duration = Duration::from_secs(20);
/// Of a file of credentials.
const LARGEST_FILE: u64 = 1 << 20;

/// Files with credentials, the first that knows a registry wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialFiles {
    /// Must be there; the others may be missing.
    named: Option<PathBuf>,
    places: Vec<PathBuf>,
}

impl CredentialFiles {
    /// None at all: everything is asked for anonymously.
    pub fn none() -> Self {
        Self::default()
    }

    /// `named` alone, if given; else where docker and podman look: the
    /// environment's `REGISTRY_AUTH_FILE`, then podman's places, then
    /// docker's.
    pub fn find(named: Option<PathBuf>) -> Self {
        let uid = std::fs::metadata("/proc/self").ok().map(|meta| meta.uid());
        Self::find_with(named, &|name| match (std::env::var(name), name, uid) {
            (Ok(value), _, _) => Some(value),
            // Of a service of the system nobody says where root is at home.
            (Err(_), "HOME", Some(0)) => Some("/root".to_owned()),
            // podman's place where no session has made one.
            (Err(_), "XDG_RUNTIME_DIR", Some(uid)) => Some(format!("/run/user/{uid}")),
            _ => None,
        })
        .and_at(uid.map(|uid| PathBuf::from(format!("/run/containers/{uid}/auth.json"))))
    }

    /// Looked at first, unless one file was named.
    fn and_at(mut self, place: Option<PathBuf>) -> Self {
        if self.named.is_none() {
            self.places.splice(0..0, place);
        }
        self
    }

    pub(crate) fn find_with(
        named: Option<PathBuf>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let path = |name| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let named = named.or_else(|| path("REGISTRY_AUTH_FILE"));
        if named.is_some() {
            return Self { named, places: Vec::new() };
        }
        let home = path("HOME");
        let places = [
            path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
            path("XDG_CONFIG_HOME")
                .or_else(|| home.as_ref().map(|home| home.join(".config")))
                .map(|dir| dir.join("containers/auth.json")),
            path("DOCKER_CONFIG")
                .or_else(|| home.as_ref().map(|home| home.join(".docker")))
                .map(|dir| dir.join("config.json")),
        ];
        Self { named: None, places: places.into_iter().flatten().collect() }
    }

    /// What to show to that registry for that repository.
    pub(crate) async fn lookup(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credential>, FetchError> {
        for path in self.named.iter().chain(&self.places) {
            let Some(file) = self.read(path).await? else { continue };
            if let Some(found) = in_file(&file, registry, repository, path).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn read(&self, path: &Path) -> Result<Option<File>, FetchError> {
        let refuse = |what: String| Err(refused(path, what));
        let missing_is_fine = self.named.is_none();
        match tokio::fs::metadata(path).await {
            Ok(meta) if meta.len() > LARGEST_FILE => return refuse("it is too large".to_owned()),
            // One is given as /dev/null to have none.
            Ok(meta) if !meta.is_file() => return Ok(None),
            _ => {}
        }
        let text = match tokio::fs::read(path).await {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && missing_is_fine => {
                return Ok(None);
            }
            Err(e) => return refuse(e.to_string()),
        };
        if text.trim_ascii().is_empty() {
            return Ok(None);
        }
        match serde_json::from_slice(&text) {
            Ok(file) => Ok(Some(file)),
            // Its own words might be part of a password.
            Err(e) => {
                refuse(format!("line {}, column {} is not as it should be", e.line(), e.column()))
            }
        }
    }
}

fn refused(path: &Path, what: String) -> FetchError {
    FetchError::new(
        "read the credentials",
        path.display().to_string(),
        FailureClass::Unauthorised,
        what,
    )
    .next("mend the file, or write it anew with `docker login` or `skopeo login`")
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// docker's order: the registry's own helper, the store, the file itself.
async fn in_file(
    file: &File,
    registry: &str,
    repository: &str,
    path: &Path,
) -> Result<Option<Credential>, FetchError> {
    let names = names(registry);
    let helper = names.iter().find_map(|name| file.cred_helpers.get(name));
    if let Some(helper) = helper.or(file.creds_store.as_ref()).filter(|name| !name.is_empty()) {
        for server in &names {
            if let Some(found) = ask_helper(helper, server).await? {
                return Ok(Some(found));
            }
        }
    }
    for key in keys(&names, repository) {
        let entry = file.auths.iter().find(|(name, _)| plain(name) == key).map(|(_, e)| e);
        if let Some(found) = entry.map(|e| credential(e, path)).transpose()?.flatten() {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// What a registry is called in such files; docker's own has an old name.
fn names(registry: &str) -> Vec<String> {
    if registry == "docker.io" {
        ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io"]
            .map(str::to_owned)
            .to_vec()
    } else {
        vec![registry.to_owned()]
    }
}

/// The most specific first: podman keeps credentials for parts of a registry.
fn keys(names: &[String], repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut part = Some(repository);
    while let Some(path) = part {
        keys.extend(names.iter().map(|name| format!("{}/{path}", plain(name))));
        part = path.rsplit_once('/').map(|(parent, _)| parent);
    }
    keys.extend(names.iter().map(|name| plain(name)));
    keys
}

/// A key without scheme, API version and last slash, which docker adds.
fn plain(key: &str) -> String {
    let key = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").or(key.strip_suffix("/v2")).unwrap_or(key);
    key.to_owned()
}

fn credential(entry: &Entry, path: &Path) -> Result<Option<Credential>, FetchError> {
    if !entry.registrytoken.is_empty() {
        return Ok(Some(Credential::Token(Secret::new(&entry.registrytoken))));
    }
    if !entry.identitytoken.is_empty() {
        return Ok(Some(Credential::Identity(Secret::new(&entry.identitytoken))));
    }
    let (user, password) = if entry.auth.is_empty() {
        (entry.username.clone(), entry.password.clone())
    } else {
        let refuse =
            || refused(path, "an `auth` in it is not the base64 of user:password".to_owned());
        let text = STANDARD
            .decode(entry.auth.trim())
            .or_else(|_| STANDARD_NO_PAD.decode(entry.auth.trim()))
            .map_err(|_| refuse())?;
        let text = String::from_utf8(text).map_err(|_| refuse())?;
        let (user, password) = text.split_once(':').ok_or_else(refuse)?;
        // docker pads some with zeros.
        (user.to_owned(), password.trim_end_matches('\0').to_owned())
    };
    // docker leaves empty entries for what its store keeps.
    let some = !user.is_empty();
    Ok(some.then(|| Credential::Password { user, password: Secret::new(password) }))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Stored {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

fn refused_by_helper(program: &str, what: String) -> FetchError {
    FetchError::new("get the credentials", program, FailureClass::Unauthorised, what)
        .next("check what credsStore and credHelpers of the credentials' file name")
}

/// docker-credential-helpers' protocol: `get`, the server on stdin, JSON back.
async fn ask_helper(name: &str, server: &str) -> Result<Option<Credential>, FetchError> {
    let program = format!("docker-credential-{name}");
    let refuse = |what| refused_by_helper(&program, what);
    let is_name = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
    if !name.bytes().all(is_name) {
        return Err(refuse("it is no helper's name".to_owned()));
    }
    let path = find_program(&program).ok_or_else(|| refuse("it is not installed".to_owned()))?;
    ask_program(&path, &program, server).await
}

async fn ask_program(
    path: &Path,
    program: &str,
    server: &str,
) -> Result<Option<Credential>, FetchError> {
    let refuse = |what| refused_by_helper(program, what);
    let answer = ask(path, ["get"], format!("{server}\n").as_bytes(), HELPER_DEADLINE)
        .await
        .map_err(|e| refuse(e.to_string()))?;
    if !answer.status.success() {
        // The protocol's one error that is none.
        let text = String::from_utf8_lossy(&answer.stdout);
        if text.contains("credentials not found") {
            return Ok(None);
        }
        return Err(refuse(format!("it failed with {}", answer.status)));
    }
    let said: Stored = serde_json::from_slice(&answer.stdout)
        .map_err(|_| refuse("its answer is not what a helper says".to_owned()))?;
    Ok(match said.username.as_str() {
        "" => None,
        "<token>" => Some(Credential::Identity(Secret::new(said.secret))),
        _ => Some(Credential::Password { user: said.username, password: Secret::new(said.secret) }),
    })
}

#[cfg(test)]
mod tests;
