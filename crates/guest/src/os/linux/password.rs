//! A user's password: his line of /etc/shadow (shadow(5)), as chpasswd(8)
//! writes it, under the lock that all such programs share.

use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_lock};

use super::{etc, sha_crypt, wait_for};
use crate::refusal::{OrRefuse, Refusal};

/// lckpwdf(3).
const LOCK: &str = ".pwd.lock";
const LOCK_PATIENCE: Duration = Duration::from_secs(15);

/// Longer ones are no passwords (crypt(3), CRYPT_MAX_PASSPHRASE_SIZE).
const MAX_PASSWORD: usize = 511;

/// Debian's, where the file is made anew.
const SHADOW_MODE: u32 = 0o640;

const DAY: u64 = 24 * 60 * 60;

/// Takes one of `password`, in the clear, and `hash`, as crypt(5) writes it.
pub(crate) fn set(user: &str, password: &str, hash: &str) -> Result<(), Refusal> {
    let hash = match (password.is_empty(), hash.is_empty()) {
        (false, true) => hashed(password)?,
        (true, false) => checked(hash)?.to_owned(),
        _ => return Err(Refusal::invalid("set a password: give it or its hash, and not both")),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    set_in(Path::new("/etc"), user, &hash, now.as_secs() / DAY)
}

fn hashed(password: &str) -> Result<String, Refusal> {
    if password.len() > MAX_PASSWORD || password.contains(['\0', '\n']) {
        return Err(Refusal::invalid("set a password that is no line of up to 511 bytes"));
    }
    let mut random = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .or_refuse(|| "read /dev/urandom".into())?;
    Ok(sha_crypt::hash(password.as_bytes(), &sha_crypt::salt(random)))
}

/// `$id$…`, of letters that crypt(5) allows: which methods the guest's own
/// library knows, only that one knows.
fn checked(hash: &str) -> Result<&str, Refusal> {
    let fields = hash.strip_prefix('$').map(|rest| rest.split('$').collect::<Vec<_>>());
    let is_letter = |c: char| c.is_ascii_graphic() && !matches!(c, ':' | '!' | '*' | '\\');
    let good = fields.is_some_and(|fields| {
        fields.len() >= 3 && !fields[0].is_empty() && fields.last().is_some_and(|h| h.len() >= 22)
    });
    if !good || hash.len() > 384 || !hash.chars().all(is_letter) {
        return Err(Refusal::invalid("set a password's hash that is none of crypt(5)"));
    }
    Ok(hash)
}

fn set_in(dir: &Path, user: &str, hash: &str, today: u64) -> Result<(), Refusal> {
    let what = |file: &str| format!("write {}", dir.join(file).display());
    let _lock = lock(dir).or_refuse(|| "lock the password file".into())?;
    let passwd = fs::read_to_string(dir.join("passwd"))
        .or_refuse(|| format!("read {}", dir.join("passwd").display()))?;
    if user.is_empty() || field(&passwd, user, 0).is_none() {
        let name: String = user.chars().take(64).collect();
        return Err(Refusal::not_found(format!(
            "set the password of {name}: there is no such user"
        )));
    }
    let shadow = match fs::read_to_string(dir.join("shadow")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Refusal::io(what("shadow"), &error)),
    };
    let group = fs::read_to_string(dir.join("group")).unwrap_or_default();
    let owner = field(&group, "shadow", 2).and_then(|gid| gid.parse().ok()).unwrap_or(0);
    let lines = with_password(&shadow, user, hash, today);
    etc::rewrite(&dir.join("shadow"), &lines, (SHADOW_MODE, owner)).or_refuse(|| what("shadow"))?;
    // Otherwise nobody looks into the shadow file (passwd(5)).
    if field(&passwd, user, 1) != Some("x") {
        let lines = with_field(&passwd, user, 1, "x");
        etc::rewrite(&dir.join("passwd"), &lines, (0o644, 0)).or_refuse(|| what("passwd"))?;
    }
    Ok(())
}

/// Held until it is dropped.
fn lock(dir: &Path) -> Result<OwnedFd, io::Error> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(dir.join(LOCK), flags, Mode::from_raw_mode(0o600))?;
    wait_for("the lock of the password file", LOCK_PATIENCE, || {
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => None,
            other => Some(other),
        }
    })??;
    Ok(file)
}

fn field<'a>(text: &'a str, name: &str, index: usize) -> Option<&'a str> {
    let mut lines = text.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let found = fields.clone().next() == Some(name);
        if found { Some(fields.nth(index).unwrap_or_default()) } else { None }
    })
}

fn with_field(text: &str, name: &str, index: usize, value: &str) -> String {
    let mut result = String::with_capacity(text.len() + value.len());
    for line in text.lines() {
        let mut fields: Vec<&str> = line.split(':').collect();
        if fields[0] == name && index < fields.len() {
            fields[index] = value;
        }
        result.push_str(&fields.join(":"));
        result.push('\n');
    }
    result
}

/// name, password, day of the last change, then what governs its age. A line
/// of a user who has none says nothing of that.
fn with_password(shadow: &str, user: &str, hash: &str, today: u64) -> String {
    let today = today.to_string();
    if has_fields(shadow, user) {
        return with_field(&with_field(shadow, user, 1, hash), user, 2, &today);
    }
    let mut lines: String = shadow
        .lines()
        .filter(|line| line.split(':').next() != Some(user))
        .flat_map(|line| [line, "\n"])
        .collect();
    lines.push_str(&format!("{user}:{hash}:{today}:0:99999:7:::\n"));
    lines
}

/// Nine, as shadow(5) says.
fn has_fields(shadow: &str, user: &str) -> bool {
    let own = shadow.lines().find(|line| line.split(':').next() == Some(user));
    own.is_some_and(|line| line.split(':').count() == 9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const HASH: &str = "$6$salt$0123456789012345678901234567890123456789";

    fn dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb::1000:1000::/home/web:/bin/sh\n";
        fs::write(dir.path().join("passwd"), passwd).unwrap();
        dir
    }

    #[test]
    fn one_line_changes_and_the_rest_stays() {
        let dir = dir();
        let before = "root:!:19000:1:2:3:4:5:\ndaemon:*:19000:0:99999:7:::\n";
        let shadow = dir.path().join("shadow");
        fs::write(&shadow, before).unwrap();
        fs::set_permissions(&shadow, fs::Permissions::from_mode(0o604)).unwrap();
        set_in(dir.path(), "root", HASH, 20_000).unwrap();
        let after = format!("root:{HASH}:20000:1:2:3:4:5:\ndaemon:*:19000:0:99999:7:::\n");
        assert_eq!(fs::read_to_string(&shadow).unwrap(), after);
        assert_eq!(fs::metadata(&shadow).unwrap().permissions().mode() & 0o777, 0o604);
        assert!(!dir.path().join("shadow.inn").exists());
    }

    #[test]
    fn a_user_without_a_line_gets_one_and_is_sent_there() {
        let dir = dir();
        set_in(dir.path(), "web", HASH, 20_000).unwrap();
        let shadow = dir.path().join("shadow");
        assert_eq!(
            fs::read_to_string(&shadow).unwrap(),
            format!("web:{HASH}:20000:0:99999:7:::\n")
        );
        assert_eq!(fs::metadata(&shadow).unwrap().permissions().mode() & 0o777, SHADOW_MODE);
        let passwd = fs::read_to_string(dir.path().join("passwd")).unwrap();
        assert!(passwd.contains("\nweb:x:1000:1000::/home/web:/bin/sh\n"), "{passwd}");
    }

    #[test]
    fn strangers_are_refused() {
        let dir = dir();
        for user in ["ghost", "", "roo", "root:x"] {
            let refusal = set_in(dir.path(), user, HASH, 1).unwrap_err();
            assert!(refusal.to_string().contains("there is no such user"), "{refusal}");
        }
        assert!(!dir.path().join("shadow").exists());
    }

    #[test]
    fn hashes_have_a_shape() {
        assert!(checked(HASH).is_ok());
        assert!(checked("$2b$12$abcdefghijklmnopqrstuu5Lo0g67CiD3M4RpN1BmBb4Crp5w7dbK").is_ok());
        for odd in ["secret", "$6$", "$6$salt$short", "$6$salt$a:b0123456789012345678901234", ""] {
            assert!(checked(odd).is_err(), "{odd}");
        }
        assert!(hashed("a\nb").is_err());
        let one = hashed("secret").unwrap();
        assert!(checked(&one).is_ok(), "{one}");
        assert_ne!(one, hashed("secret").unwrap());
    }
}
