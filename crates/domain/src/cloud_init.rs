use std::fmt;

use crate::{CreateDeniedReason, VmSpec};

/// What cloud-init in a full VM is told at its first boot. The guest agent is
/// installed by it, too, and tells when it is done.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CloudInit {
    /// In place of the name of the image's own user.
    pub user: Option<String>,
    /// As crypt(5) writes it.
    pub password_hash: Option<String>,
    /// Lines of an authorized_keys.
    pub ssh_keys: Vec<String>,
    pub packages: Vec<String>,
    /// The creator's own, in any of cloud-init's formats. It may hold secrets.
    pub user_data: Option<String>,
}

/// As many as somebody gives a VM by hand, many times over.
const MAX_LISTED: usize = 256;

/// A hash of crypt(5), the longest kind with the longest salt.
const LONGEST_HASH: usize = 512;

/// An RSA key of 16,384 bits, with options and a comment.
const LONGEST_KEY: usize = 8 << 10;

/// dpkg and rpm have shorter ones, with a version behind.
const LONGEST_PACKAGE: usize = 200;

/// useradd(8).
const LONGEST_USER: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudInitDeniedReason {
    #[error(
        "only disk images are set up by cloud-init; an OCI image has none, so leave ssh keys, user, \
         password, packages and user data out, or make the VM from a disk image"
    )]
    NoDiskImage,
    #[error(
        "the user {name:?} is no user's name; give it 1 to {LONGEST_USER} small letters, digits, - and _, \
         a letter first"
    )]
    User { name: String },
    /// Its text is not repeated: it may well be the password itself.
    #[error("the password hash is none that crypt(5) writes; make one with `openssl passwd -6`")]
    PasswordHash,
    #[error("ssh key {number} {why}; give one line of an authorized_keys for each")]
    SshKey { number: usize, why: &'static str },
    #[error("{name:?} is no package's name")]
    Package { name: String },
    #[error("{given} {what} are more than {MAX_LISTED}; give fewer")]
    TooMany { what: &'static str, given: usize },
}

impl fmt::Debug for CloudInit {
    /// Never what may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudInit")
            .field("user", &self.user)
            .field("packages", &self.packages)
            .finish_non_exhaustive()
    }
}

/// Whether a VM may be set up so. What its user data says is not looked at.
pub(crate) fn admit_cloud_init(spec: &VmSpec) -> Result<(), CreateDeniedReason> {
    let Some(wanted) = &spec.cloud_init else { return Ok(()) };
    if !spec.is_full() {
        return Err(CloudInitDeniedReason::NoDiskImage.into());
    }
    Ok(wanted.admit()?)
}

impl CloudInit {
    fn admit(&self) -> Result<(), CloudInitDeniedReason> {
        use CloudInitDeniedReason as Denied;
        for (what, given) in [("ssh keys", self.ssh_keys.len()), ("packages", self.packages.len())]
        {
            if given > MAX_LISTED {
                return Err(Denied::TooMany { what, given });
            }
        }
        if let Some(name) = self.user.as_ref().filter(|name| !is_user(name)) {
            return Err(Denied::User { name: name.chars().take(LONGEST_USER * 2).collect() });
        }
        if self.password_hash.as_ref().is_some_and(|hash| !is_hash(hash)) {
            return Err(Denied::PasswordHash);
        }
        for (number, key) in (1..).zip(&self.ssh_keys) {
            if let Some(why) = wrong_with_key(key) {
                return Err(Denied::SshKey { number, why });
            }
        }
        if let Some(name) = self.packages.iter().find(|name| !is_package(name)) {
            return Err(Denied::Package { name: name.chars().take(LONGEST_PACKAGE).collect() });
        }
        Ok(())
    }
}

/// As useradd(8) recommends it, without a dollar at its end.
fn is_user(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let first = |b: u8| b.is_ascii_lowercase() || b == b'_';
    name.len() <= LONGEST_USER && name.bytes().next().is_some_and(first) && name.bytes().all(plain)
}

/// crypt(5): a method between dollars, and what `openssl passwd` and
/// `mkpasswd` print; the old methods without dollars are too weak to take.
fn is_hash(hash: &str) -> bool {
    let fields = hash.strip_prefix('$').map(|rest| rest.split('$').collect::<Vec<_>>());
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"./$=,+-".contains(&b);
    hash.len() <= LONGEST_HASH
        && hash.bytes().all(plain)
        && fields.is_some_and(|fields| {
            fields.len() >= 3
                && !fields[0].is_empty()
                && fields.last().is_some_and(|f| f.len() > 20)
        })
}

fn wrong_with_key(key: &str) -> Option<&'static str> {
    if key.trim().is_empty() {
        Some("is empty")
    } else if key.len() > LONGEST_KEY {
        Some("is longer than any key")
    } else if key.contains("PRIVATE KEY") {
        Some("is a private key")
    } else if key.chars().any(|c| c.is_control() && c != '\t') {
        Some("has more than one line")
    } else if !key.split_whitespace().any(|word| {
        ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"].iter().any(|kind| word.starts_with(kind))
    }) {
        Some("has no type such as ssh-ed25519")
    } else {
        None
    }
}

/// A name, with apt's `=VERSION` and dnf's `-VERSION` and globs; never an option.
fn is_package(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"+-._:=~*/@^".contains(&b);
    name.len() <= LONGEST_PACKAGE
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut CloudInit)) -> Result<(), CloudInitDeniedReason> {
        let mut wanted = CloudInit::default();
        change(&mut wanted);
        wanted.admit()
    }

    #[test]
    fn what_a_guest_would_choke_on_is_refused_by_name() {
        assert_eq!(with(|_| {}), Ok(()));
        for user in ["ada", "_svc", "a-1"] {
            assert_eq!(with(|w| w.user = Some(user.into())), Ok(()), "{user}");
        }
        for user in ["", "Ada", "1a", "a b", "-a", "root:x", &"a".repeat(33)] {
            assert!(with(|w| w.user = Some(user.into())).is_err(), "{user}");
        }
        let hash = format!("$6$saltsalt${}", "a".repeat(86));
        let yescrypt = format!("$y$j9T$F5Jx5fExrKuPp53xLKQ..1${}", "b".repeat(43));
        for hash in [hash.as_str(), &yescrypt] {
            assert_eq!(with(|w| w.password_hash = Some(hash.into())), Ok(()), "{hash}");
        }
        for word in ["secret", "$6$", "$6$salt$short", "ab01FAX.bQRSU", &format!("{hash}\n")] {
            let denied = with(|w| w.password_hash = Some(word.into()));
            let why = denied.expect_err("it is no hash").to_string();
            assert!(!why.contains("secret"), "{why}");
        }
        for key in ["ssh-ed25519 AAAA me", "no-pty ssh-rsa AAAA", "sk-ssh-ed25519@openssh.com A"] {
            assert_eq!(with(|w| w.ssh_keys = vec![key.into()]), Ok(()), "{key}");
        }
        for key in ["", "hello", "ssh-rsa A\nssh-rsa B", "-----BEGIN OPENSSH PRIVATE KEY-----"] {
            assert!(with(|w| w.ssh_keys = vec![key.into()]).is_err(), "{key}");
        }
        for package in ["jq", "libc6:amd64", "nginx=1.22.1-9", "python3.11"] {
            assert_eq!(with(|w| w.packages = vec![package.into()]), Ok(()), "{package}");
        }
        for package in ["", "-y", "a b", "a;b", "$(x)"] {
            assert!(with(|w| w.packages = vec![package.into()]).is_err(), "{package}");
        }
        assert!(with(|w| w.packages = vec!["jq".into(); 257]).is_err());
    }

    #[test]
    fn what_may_be_secret_is_not_shown() {
        let wanted = CloudInit {
            password_hash: Some("$6$salt$hash".into()),
            user_data: Some("#cloud-config\ntoken: t0ken\n".into()),
            ..CloudInit::default()
        };
        let shown = format!("{wanted:?}");
        assert!(!shown.contains("salt") && !shown.contains("t0ken"), "{shown}");
    }
}
