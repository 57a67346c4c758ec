//! The NoCloud seed, and the disk with the guest agent that it installs.

use std::fmt;

use inn_units::VmId;

use crate::iso::{self, IsoFile};
use crate::mime::{self, Part};
use crate::yaml::{Node, YamlError};

/// By which cloud-init finds its seed ("NoCloud", "Source of configuration").
pub const SEED_LABEL: &str = "cidata";

/// By which the seed finds the disk with the guest agent.
pub const AGENT_LABEL: &str = "INN-GUEST";

/// Of a user's own user data. Clouds take 16 to 64 KiB.
pub const MAX_USER_DATA: usize = 256 << 10;

static INSTALL: &str = include_str!("install.sh");

/// Run by cloud-init's shell in every boot, before it does anything for its
/// user, so that the agent can tell how far it comes. The disk is not mounted
/// longer than that.
static INSTALL_AGENT: &str = "\
d=/dev/disk/by-label/INN-GUEST; [ -e \"$d\" ] || d=$(blkid -L INN-GUEST); \
m=$(mktemp -d /run/inn-guest.XXXXXX) && mount -t iso9660 -o ro \"$d\" \"$m\" && \
{ sh \"$m/install\"; r=$?; umount \"$m\"; rmdir \"$m\"; [ $r -eq 0 ]; }";

/// How our part of an archive goes into what came before it: as [`Node::merged`]
/// would, with ours below ("Merging user data sections").
const MERGE: &str = "Merge-Type: list(prepend)+dict(no_replace,recurse_list)+str()\n";

/// What a VM is to become.
#[derive(Clone, Copy)]
pub struct SeedRequest<'a> {
    pub id: VmId,
    pub hostname: &'a str,
    /// In place of the name of the image's own user.
    pub user: Option<&'a str>,
    /// As crypt(5) writes it. With one the user may log in on a console.
    pub password_hash: Option<&'a str>,
    pub ssh_keys: &'a [String],
    pub packages: &'a [String],
    /// The user's own, in any of cloud-init's formats.
    pub user_data: Option<&'a str>,
    pub network: NetworkSeed,
    /// Whether it installs the guest agent, from the disk that has it.
    pub agent: bool,
}

impl fmt::Debug for SeedRequest<'_> {
    /// Never what may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeedRequest").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkSeed {
    None,
    /// One interface, by DHCP.
    Dhcp {
        mac: [u8; 6],
    },
}

/// The files of the seed. They may hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed {
    user_data: String,
    meta_data: String,
    network_config: String,
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// What is wrong with a user's own user data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserDataError {
    #[error("the user data has {0} bytes, where {MAX_USER_DATA} is the most")]
    Large(usize),
    #[error(
        "the user data begins with {0:?}, which cloud-init does not know; let its first line be \
         #cloud-config, #! and a program, #include, #cloud-boothook, ## template: jinja or a MIME \
         header"
    )]
    UnknownKind(String),
    #[error("the user data {0}")]
    Yaml(String),
    #[error("the user data is a #cloud-config and no mapping of keys; let it be one")]
    NoMapping,
    #[error("the user data's {key} is no list, as cloud-init wants it; make it one")]
    NoList { key: &'static str },
}

impl From<YamlError> for UserDataError {
    fn from(error: YamlError) -> Self {
        Self::Yaml(error.to_string())
    }
}

/// Whether a seed can be made with it.
pub fn check_user_data(text: &str) -> Result<(), UserDataError> {
    user_data(Node::map([]), Some(text)).map(drop)
}

impl Seed {
    pub fn new(request: &SeedRequest<'_>) -> Result<Self, UserDataError> {
        let meta = Node::map([
            // Another id would have cloud-init do all of it again.
            ("instance-id", Node::text(format!("inn-{}", request.id))),
            ("local-hostname", Node::text(request.hostname)),
        ]);
        Ok(Self {
            user_data: user_data(ours(request), request.user_data)?,
            meta_data: meta.to_text(),
            network_config: network(request.network).to_text(),
        })
    }

    pub fn user_data(&self) -> &str {
        &self.user_data
    }

    /// The disk, labelled [`SEED_LABEL`]. In the guest root alone reads it.
    pub fn disk(&self) -> Vec<u8> {
        iso::disk(
            SEED_LABEL,
            &[
                IsoFile { name: "meta-data", mode: 0o400, bytes: self.meta_data.as_bytes() },
                IsoFile { name: "user-data", mode: 0o400, bytes: self.user_data.as_bytes() },
                IsoFile {
                    name: "network-config",
                    mode: 0o400,
                    bytes: self.network_config.as_bytes(),
                },
            ],
        )
    }
}

/// The guest agent as it comes into a full VM, the same for all of a node.
#[derive(Debug, Clone, Copy)]
pub struct AgentDisk<'a> {
    /// The static executable.
    pub binary: &'a [u8],
    /// Its systemd unit.
    pub unit: &'a str,
}

impl AgentDisk<'_> {
    /// The disk, labelled [`AGENT_LABEL`].
    pub fn disk(&self) -> Vec<u8> {
        iso::disk(
            AGENT_LABEL,
            &[
                IsoFile { name: "inn-guest", mode: 0o755, bytes: self.binary },
                IsoFile { name: "inn-guest.service", mode: 0o644, bytes: self.unit.as_bytes() },
                IsoFile { name: "install", mode: 0o755, bytes: INSTALL.as_bytes() },
            ],
        )
    }
}

fn ours(request: &SeedRequest<'_>) -> Node {
    let mut entries = Vec::new();
    if request.agent {
        entries.push(("bootcmd", Node::texts([INSTALL_AGENT])));
    }
    // Of the image's own user, whatever else its distribution says of it.
    let mut user = Vec::new();
    if let Some(name) = request.user {
        user.push(("name", Node::text(name)));
    }
    if let Some(hash) = request.password_hash {
        user.push(("lock_passwd", Node::bool(false)));
        user.push(("hashed_passwd", Node::text(hash)));
    }
    if !user.is_empty() {
        entries.push(("user", map(user)));
    }
    if !request.ssh_keys.is_empty() {
        entries.push(("ssh_authorized_keys", Node::texts(request.ssh_keys)));
    }
    if !request.packages.is_empty() {
        entries.push(("package_update", Node::bool(true)));
        entries.push(("packages", Node::texts(request.packages)));
    }
    map(entries)
}

fn map(entries: Vec<(&str, Node)>) -> Node {
    entries.into_iter().fold(Node::map([]), |map, entry| map.merged(Node::map([entry])))
}

fn user_data(ours: Node, theirs: Option<&str>) -> Result<String, UserDataError> {
    let Some(theirs) = theirs else { return Ok(cloud_config(&ours)) };
    if theirs.len() > MAX_USER_DATA {
        return Err(UserDataError::Large(theirs.len()));
    }
    let first = theirs.lines().next().unwrap_or_default();
    if first.trim_end() == "#cloud-config" {
        let theirs = Node::parse(theirs)?;
        match &theirs {
            Node::Map(_) => {}
            node if node.is_null() => {}
            _ => return Err(UserDataError::NoMapping),
        }
        for key in ["bootcmd", "packages", "ssh_authorized_keys"] {
            let list = |node: &Node| matches!(node, Node::List(_)) || node.is_null();
            if theirs.get(key).is_some_and(|node| !list(node)) {
                return Err(UserDataError::NoList { key });
            }
        }
        return Ok(cloud_config(&ours.merged(theirs)));
    }
    // The beginnings that cloud-init knows (its `INCLUSION_TYPES_MAP`).
    let known = [
        "#!",
        "#include",
        "#cloud-config-archive",
        "#cloud-boothook",
        "#part-handler",
        "## template:",
    ];
    if !known.iter().any(|known| first.starts_with(known)) && !mime::is_archive(theirs) {
        let shown: String = first.chars().take(40).collect();
        return Err(UserDataError::UnknownKind(shown));
    }
    Ok(mime::archive(theirs, &Part { headers: MERGE, content: &cloud_config(&ours) }))
}

fn cloud_config(node: &Node) -> String {
    format!("#cloud-config\n{}", node.to_text())
}

/// Version 2. The interface is named as well as found by its address: not
/// every distribution's network setup does the one without the other.
fn network(network: NetworkSeed) -> Node {
    let interfaces = match network {
        NetworkSeed::None => Node::map([]),
        NetworkSeed::Dhcp { mac } => {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            let interface = Node::map([
                ("match", Node::map([("macaddress", Node::text(mac))])),
                ("set-name", Node::text("eth0")),
                ("dhcp4", Node::bool(true)),
            ]);
            Node::map([("eth0", interface)])
        }
    };
    Node::map([("version", Node::number(2)), ("ethernets", interfaces)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> SeedRequest<'static> {
        SeedRequest {
            id: VmId::from_bytes([1, 2, 3, 4, 5]),
            hostname: "web-1",
            user: None,
            password_hash: None,
            ssh_keys: &[],
            packages: &[],
            user_data: None,
            network: NetworkSeed::Dhcp { mac: [2, 1, 2, 3, 4, 0xfe] },
            agent: true,
        }
    }

    fn seed(request: &SeedRequest<'_>) -> Node {
        let seed = Seed::new(request).unwrap();
        assert!(seed.user_data.starts_with("#cloud-config\n"), "{}", seed.user_data);
        Node::parse(&seed.user_data).unwrap()
    }

    #[test]
    fn it_says_who_the_vm_is_and_brings_the_agent() {
        let keys = ["ssh-ed25519 AAAA me@here".to_owned()];
        let packages = ["htop".to_owned(), "jq".to_owned()];
        let request = SeedRequest {
            user: Some("ada"),
            password_hash: Some("$6$salt$hash"),
            ssh_keys: &keys,
            packages: &packages,
            ..request()
        };
        let seed = Seed::new(&request).unwrap();
        let wanted = format!(
            "#cloud-config\n\"bootcmd\":\n  - {}\n\"user\":\n  \"name\": \"ada\"\n  \
             \"lock_passwd\": false\n  \"hashed_passwd\": \"$6$salt$hash\"\n\
             \"ssh_authorized_keys\":\n  - \"ssh-ed25519 AAAA me@here\"\n\"package_update\": true\n\
             \"packages\":\n  - \"htop\"\n  - \"jq\"\n",
            Node::text(INSTALL_AGENT).to_text().trim_end()
        );
        assert_eq!(seed.user_data, wanted);
        assert_eq!(
            seed.meta_data,
            format!("\"instance-id\": \"inn-{}\"\n\"local-hostname\": \"web-1\"\n", request.id)
        );
        assert_eq!(
            seed.network_config,
            "\"version\": 2\n\"ethernets\":\n  \"eth0\":\n    \"match\":\n      \
             \"macaddress\": \"02:01:02:03:04:fe\"\n    \"set-name\": \"eth0\"\n    \"dhcp4\": true\n"
        );
        assert_eq!(seed.disk(), Seed::new(&request).unwrap().disk(), "the same each time");
        assert_eq!(format!("{seed:?}"), "Seed(..)");
        let without = Seed::new(&SeedRequest { agent: false, ..request }).unwrap();
        let wanted: Vec<&str> = wanted.lines().filter(|line| !line.contains("INN-GUEST")).collect();
        let (first, rest) = wanted.split_first().unwrap();
        assert_eq!(without.user_data, format!("{first}\n{}\n", rest[1..].join("\n")));
        let nothing = Seed::new(&SeedRequest { agent: false, ..self::request() }).unwrap();
        assert_eq!(nothing.user_data, "#cloud-config\n{}\n", "a mapping, and nothing in it");
    }

    #[test]
    fn a_user_s_cloud_config_is_merged_with_ours() {
        let keys = ["ssh-ed25519 AAAA".to_owned()];
        let theirs = "#cloud-config\nbootcmd:\n  - echo mine\nssh_authorized_keys: [ssh-rsa BBBB]\n\
                      hostname: other\npackages:\nruncmd:\n  - [ls, -l]\n";
        let packages = ["jq".to_owned()];
        let request = SeedRequest {
            ssh_keys: &keys,
            packages: &packages,
            user_data: Some(theirs),
            ..request()
        };
        let merged = seed(&request);
        let list = |key: &str| match merged.get(key) {
            Some(Node::List(items)) => items.len(),
            other => panic!("{key}: {other:?}"),
        };
        assert_eq!((list("bootcmd"), list("ssh_authorized_keys"), list("packages")), (2, 2, 1));
        assert_eq!(list("runcmd"), 1);
        assert!(merged.get("hostname").is_some());
        // Nothing but the line that says what it is.
        assert_eq!(seed(&SeedRequest { user_data: Some("#cloud-config\n"), ..request }), {
            seed(&SeedRequest { user_data: None, ..request })
        });
    }

    #[test]
    fn whatever_else_cloud_init_takes_stands_beside_ours() {
        for theirs in [
            "#!/bin/sh\necho ä\n",
            "#include\nhttps://example.org/user-data\n",
            "#cloud-config-archive\n- {type: text/x-shellscript, content: x}\n",
            "## template: jinja\n#cloud-config\n{}\n",
            "Content-Type: multipart/mixed; boundary=\"b\"\nMIME-Version: 1.0\n\n--b\n--b--\n",
        ] {
            let request = SeedRequest { user_data: Some(theirs), ..request() };
            let text = Seed::new(&request).unwrap().user_data;
            assert!(text.starts_with("Content-Type: multipart/mixed; boundary="), "{text}");
            assert!(text.contains(MERGE), "{text}");
            assert!(text.is_ascii(), "{text}");
        }
    }

    #[test]
    fn what_cloud_init_would_not_take_is_refused() {
        let why = |text: &str| check_user_data(text).unwrap_err().to_string();
        assert!(why("packages: [jq]\n").contains("let its first line be #cloud-config"));
        assert!(why("").contains("#cloud-config"));
        assert!(why("#cloud-config\n- a\n").contains("no mapping"));
        assert!(why("#cloud-config\nbootcmd: reboot\n").contains("bootcmd is no list"));
        assert!(why("#cloud-config\na: [\n").contains("the user data is no YAML: line"));
        let large = format!("#cloud-config\n# {}\n", "x".repeat(MAX_USER_DATA));
        assert!(why(&large).contains("is the most"));
    }
}
