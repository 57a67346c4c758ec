//! The ssh keys that let somebody in as a user: his `.ssh/authorized_keys`.
//!
//! The home belongs to the user, who may have put a link to somebody else's
//! file where root is about to write. So each step below the home is taken
//! from the directory before it, and no link is followed.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::users::{self, User};
use crate::refusal::{OrRefuse, Refusal};

/// sshd itself reads lines of any length; ours have to fit an answer.
const MAX_LINE: usize = 16 * 1024;
const MAX_FILE: usize = 96 * 1024;

const DIR: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);
const FILE: &str = "authorized_keys";

/// Comments and what sshd would not read are left out.
pub(crate) fn get(user: &str) -> Result<Vec<String>, Refusal> {
    get_in(&find(user)?)
}

/// Adds keys, or makes them the only ones.
pub(crate) fn set(user: &str, keys: &[String], replace: bool) -> Result<(), Refusal> {
    set_in(&find(user)?, keys, replace)
}

fn find(name: &str) -> Result<User, Refusal> {
    let user = users::resolve(name, Path::new("/etc"))?;
    // A bare number has no home but /.
    if user.name.is_empty() || !user.home.starts_with('/') {
        return Err(Refusal::not_found(format!("find the home of {name}: there is no such user")));
    }
    Ok(user)
}

fn get_in(user: &User) -> Result<Vec<String>, Refusal> {
    let Some(ssh) = open_ssh(user, false)? else { return Ok(Vec::new()) };
    let text = read_file(&ssh, user)?;
    Ok(text.lines().map(str::trim).filter(|line| blob(line).is_some()).map(Into::into).collect())
}

fn set_in(user: &User, keys: &[String], replace: bool) -> Result<(), Refusal> {
    for key in keys {
        if key.len() > MAX_LINE || key.chars().any(char::is_control) || blob(key.trim()).is_none() {
            let start: String = key.chars().filter(|c| !c.is_control()).take(40).collect();
            return Err(Refusal::invalid(format!("take {start:?} for an ssh key")));
        }
    }
    let Some(ssh) = open_ssh(user, true)? else {
        return Err(Refusal::not_found(format!("make {}/.ssh", user.home)));
    };
    let before = if replace { String::new() } else { read_file(&ssh, user)? };
    let after = joined(&before, keys);
    if after.len() > MAX_FILE {
        return Err(Refusal::invalid(format!("keep more than {MAX_FILE} bytes of ssh keys")));
    }
    write_file(&ssh, user, &after).or_refuse(|| format!("write {}/.ssh/{FILE}", user.home))
}

/// What is there stays, in its order; each key once.
fn joined(before: &str, keys: &[String]) -> String {
    let mut known: Vec<&str> = Vec::new();
    let mut after = String::new();
    for line in before.lines().chain(keys.iter().map(|key| key.trim())) {
        if let Some(blob) = blob(line.trim()) {
            if known.contains(&blob) {
                continue;
            }
            known.push(blob);
        }
        after.push_str(line);
        after.push('\n');
    }
    after
}

/// `.ssh` of the home, `None` where there is none and none is to be made.
fn open_ssh(user: &User, make: bool) -> Result<Option<OwnedFd>, Refusal> {
    // The way to the home is root's: /home may be a link.
    let home = match rustix::fs::open(user.home.as_str(), DIR, Mode::empty()) {
        Err(Errno::NOENT) if !make => return Ok(None),
        other => other.or_refuse(|| format!("open the home {}", user.home))?,
    };
    let what = || format!("open {}/.ssh, which must be a directory of its own", user.home);
    let open = || rustix::fs::openat(&home, ".ssh", DIR | OFlags::NOFOLLOW, Mode::empty());
    match open() {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT) if make => {
            let made = rustix::fs::mkdirat(&home, ".ssh", Mode::RWXU).and_then(|()| open());
            let dir = made.or_refuse(|| format!("make {}/.ssh", user.home))?;
            give(&dir, user, 0o700).or_refuse(what)?;
            Ok(Some(dir))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error).or_refuse(what),
    }
}

fn read_file(ssh: &OwnedFd, user: &User) -> Result<String, Refusal> {
    let what = || format!("read {}/.ssh/{FILE}", user.home);
    // A FIFO would let us wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(ssh, FILE, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(String::new()),
        Err(error) => return Err(error).or_refuse(what),
    };
    let stat = rustix::fs::fstat(&file).or_refuse(what)?;
    // One with a second name may be somebody else's.
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink > 1 {
        return Err(Refusal::invalid(format!("{}: it is no file of its own", what())));
    }
    let mut bytes = Vec::new();
    File::from(file).take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).or_refuse(what)?;
    if bytes.len() > MAX_FILE {
        return Err(Refusal::invalid(format!("{}: it is too long", what())));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn write_file(ssh: &OwnedFd, user: &User, content: &str) -> io::Result<()> {
    const BESIDE: &str = "authorized_keys.inn";
    // What an agent that died in here left behind.
    let _none = rustix::fs::unlinkat(ssh, BESIDE, AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let write = || {
        let mut file = File::from(rustix::fs::openat(ssh, BESIDE, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(content.as_bytes())?;
        give(&file, user, 0o600)?;
        file.sync_all()?;
        Ok(rustix::fs::renameat(ssh, BESIDE, ssh, FILE)?)
    };
    let result = write();
    if result.is_err() {
        let _never_made = rustix::fs::unlinkat(ssh, BESIDE, AtFlags::empty());
    }
    result
}

fn give(file: impl std::os::fd::AsFd, user: &User, mode: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::fs::fchown(&file, Some(uid), Some(gid))?;
    Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
}

/// The key itself in base 64, of a line of sshd(8)'s format: options, type,
/// key, comment. The key repeats its type, which tells it from other words.
fn blob(line: &str) -> Option<&str> {
    if line.starts_with('#') {
        return None;
    }
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    words.windows(2).find(|pair| is_key(pair[0], pair[1])).map(|pair| pair[1])
}

fn is_key(kind: &str, key: &str) -> bool {
    let known = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-sha2-"];
    if !known.iter().any(|start| kind.starts_with(start)) {
        return false;
    }
    // RFC 4253, section 6.6: a string is its length in four bytes, and itself.
    let Some(bytes) = decode(key) else { return false };
    let length = u32::try_from(kind.len()).unwrap_or(u32::MAX).to_be_bytes();
    bytes
        .strip_prefix(&length)
        .is_some_and(|rest| rest.strip_prefix(kind.as_bytes()).is_some_and(|rest| rest.len() >= 32))
}

/// Base 64 (RFC 4648).
fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut word, mut bits) = (0_u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        word = word << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            let [.., byte] = (word >> bits).to_be_bytes();
            bytes.push(byte);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    const ONE: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5cVFUyqF3WvI1Ipo0sDMvd1fUE2tBNwHzGGgFTbcoF one";
    const TWO: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKlkRlO4zGz0pCxpnCXoBX4NCFpcQ6AJAcJtRRGvGCeN two";

    fn user(home: &Path) -> User {
        User {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            groups: vec![],
            name: "me".into(),
            home: home.to_str().unwrap().into(),
            shell: "/bin/sh".into(),
        }
    }

    #[test]
    fn keys_are_added_once_and_replaced() {
        let home = tempfile::tempdir().unwrap();
        let user = user(home.path());
        assert_eq!(get_in(&user).unwrap(), Vec::<String>::new());
        set_in(&user, &[ONE.into(), format!("{ONE} again")], false).unwrap();
        let file = home.path().join(".ssh/authorized_keys");
        std::fs::write(&file, format!("# mine\n{ONE}\n")).unwrap();
        set_in(&user, &[TWO.into(), ONE.into()], false).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, format!("# mine\n{ONE}\n{TWO}\n"));
        assert_eq!(get_in(&user).unwrap(), [ONE, TWO]);
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        let dir = std::fs::metadata(home.path().join(".ssh")).unwrap();
        assert_eq!(dir.mode() & 0o777, 0o700);
        set_in(&user, &[TWO.into()], true).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{TWO}\n"));
        set_in(&user, &[], true).unwrap();
        assert_eq!(get_in(&user).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn links_are_not_followed() {
        let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let user = user(home.path());
        let victim = other.path().join("victim");
        std::fs::write(&victim, ONE).unwrap();
        symlink(other.path(), home.path().join(".ssh")).unwrap();
        assert!(set_in(&user, &[TWO.into()], false).is_err());
        assert!(get_in(&user).is_err());
        std::fs::remove_file(home.path().join(".ssh")).unwrap();
        std::fs::create_dir(home.path().join(".ssh")).unwrap();
        let file = home.path().join(".ssh/authorized_keys");
        symlink(&victim, &file).unwrap();
        assert!(get_in(&user).is_err());
        assert!(set_in(&user, &[TWO.into()], false).is_err());
        // Replaced is the link and not what it leads to.
        set_in(&user, &[TWO.into()], true).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), ONE);
        assert!(std::fs::symlink_metadata(&file).unwrap().is_file());
    }

    #[test]
    fn lines_are_keys_or_not() {
        let with_options = format!("command=\"echo ssh-rsa\",no-pty {ONE}");
        assert_eq!(blob(&with_options), blob(ONE));
        let truncated = &ONE[..40];
        let other_kind = ONE.replace("ssh-ed25519", "ssh-rsa");
        for odd in ["", "# x", "hello", "ssh-ed25519", truncated, &other_kind, "ssh-rsa AAAA"] {
            assert_eq!(blob(odd), None, "{odd}");
        }
        let home = tempfile::tempdir().unwrap();
        for odd in ["nonsense".to_owned(), format!("{ONE}\n{TWO}"), "x".repeat(MAX_LINE + 1)] {
            assert!(set_in(&user(home.path()), &[odd], false).is_err());
        }
        assert!(!home.path().join(".ssh").exists());
    }
}
