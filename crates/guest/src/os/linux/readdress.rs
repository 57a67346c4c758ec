//! The files of a full VM's network, once it goes on as another one: where its old
//! MAC or its old address stands, the new one is to be from its next boot on.
//!
//! Cloud-init and its like find a card by its MAC (`match: macaddress`), so that a
//! clone which boots with its own would find none. Nobody is told of it: whoever has
//! read the files has the card, and the kernel tells it of the new MAC.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::etc;
use crate::refusal::{OrRefuse, Refusal};

/// Where Netplan, systemd, ifupdown, NetworkManager and udev have them. Those of
/// /run are made anew by the next boot, and read before by who reloads.
const PLACES: [&str; 9] = [
    "etc/netplan",
    "etc/systemd/network",
    "etc/network/interfaces",
    "etc/network/interfaces.d",
    "etc/NetworkManager/system-connections",
    "etc/sysconfig/network-scripts",
    "etc/udev/rules.d",
    "run/systemd/network",
    "run/NetworkManager/system-connections",
];

/// A file that is larger is none of a person's or of cloud-init's.
const LARGEST: u64 = 256 << 10;

/// What stood for the card, and what does now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Words(Vec<(String, String)>);

impl Words {
    pub(super) fn mac(&mut self, old: &[u8], new: &[u8]) {
        let text = |mac: &[u8]| {
            let bytes: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
            bytes.join(":")
        };
        self.add(text(old), text(new));
    }

    pub(super) fn address(&mut self, old: IpAddr, new: IpAddr) {
        self.add(old.to_string(), new.to_string());
    }

    fn add(&mut self, old: String, new: String) {
        if old != new && !old.is_empty() {
            self.0.push((old, new));
        }
    }

    /// The text with the new ones, or `None` where none of the old ones stands in it.
    fn put_into(&self, text: &str) -> Option<String> {
        let mut rest = text;
        let mut after = String::new();
        let mut changed = false;
        while !rest.is_empty() {
            let at_word = !after.chars().next_back().is_some_and(continues);
            let found = self.0.iter().find(|(old, _)| at_word && begins_with(rest, old));
            let (taken, put) = match found {
                Some((old, new)) => {
                    changed = true;
                    (old.len(), new.as_str())
                }
                None => {
                    let length = rest.chars().next().map_or(1, char::len_utf8);
                    (length, &rest[..length])
                }
            };
            after.push_str(put);
            rest = &rest[taken..];
        }
        changed.then_some(after)
    }
}

/// As a word of its own, in either case: `10.0.0.5` is none of `10.0.0.55`.
fn begins_with(text: &str, word: &str) -> bool {
    let head = text.as_bytes().get(..word.len());
    let matches = head.is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()));
    matches && !text[word.len()..].chars().next().is_some_and(continues)
}

fn continues(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '.' | ':')
}

/// Below `root`. What is no text, is a link or is far too long is left alone.
pub(super) fn rewrite(root: &Path, words: &Words) -> Result<(), Refusal> {
    if words.0.is_empty() {
        return Ok(());
    }
    for place in PLACES {
        for path in files_at(&root.join(place)) {
            let Some(before) = text_of(&path) else { continue };
            if let Some(after) = words.put_into(&before) {
                etc::rewrite(&path, &after, (0o600, 0))
                    .or_refuse(|| format!("write {}", path.display()))?;
            }
        }
    }
    Ok(())
}

/// The file itself, or all in the directory.
fn files_at(place: &Path) -> Vec<PathBuf> {
    let entries = match fs::read_dir(place) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return vec![place.to_owned()];
        }
        Err(_) => return Vec::new(),
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

fn text_of(path: &Path) -> Option<String> {
    let meta = fs::symlink_metadata(path).ok()?;
    (meta.is_file() && meta.len() <= LARGEST).then(|| fs::read_to_string(path).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const OLD: [u8; 6] = [2, 0xab, 0, 0, 0, 5];
    const NEW: [u8; 6] = [2, 1, 2, 3, 4, 0xfe];

    fn words() -> Words {
        let mut words = Words::default();
        words.mac(&OLD, &NEW);
        words.address("10.0.0.5".parse().unwrap(), "10.0.0.77".parse().unwrap());
        words.address("fd00::5".parse().unwrap(), "fd00::77".parse().unwrap());
        words
    }

    #[test]
    fn words_are_replaced_whole_and_in_either_case() {
        let put = |text: &str| words().put_into(text);
        assert_eq!(put("x 02:ab:00:00:00:05 y").unwrap(), "x 02:01:02:03:04:fe y");
        assert_eq!(
            put("MACAddress=02:AB:00:00:00:05\n").unwrap(),
            "MACAddress=02:01:02:03:04:fe\n"
        );
        assert_eq!(put("- \"10.0.0.5/24\"").unwrap(), "- \"10.0.0.77/24\"");
        assert_eq!(put("fd00::5/64, ä").unwrap(), "fd00::77/64, ä");
        for other in
            ["10.0.0.55", "110.0.0.5", "10.0.0.5.1", "02:ab:00:00:00:05:06", "fd00::5:1", "", "ä"]
        {
            assert_eq!(put(other), None, "{other}");
        }
    }

    #[test]
    fn files_keep_their_mode_and_links_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("etc/netplan");
        fs::create_dir_all(&dir).unwrap();
        fs::create_dir_all(root.path().join("etc/network")).unwrap();
        let (yaml, other) = (dir.join("50-cloud-init.yaml"), dir.join("other.yaml"));
        fs::write(&yaml, "macaddress: \"02:ab:00:00:00:05\"\n").unwrap();
        fs::set_permissions(&yaml, fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(&other, "dhcp4: true\n").unwrap();
        let outside = root.path().join("outside");
        fs::write(&outside, "02:ab:00:00:00:05").unwrap();
        std::os::unix::fs::symlink(&outside, dir.join("link")).unwrap();
        let main = root.path().join("etc/network/interfaces");
        fs::write(&main, "    address 10.0.0.5/24\n").unwrap();
        rewrite(root.path(), &words()).unwrap();
        assert_eq!(fs::read_to_string(&yaml).unwrap(), "macaddress: \"02:01:02:03:04:fe\"\n");
        assert_eq!(fs::metadata(&yaml).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_to_string(&other).unwrap(), "dhcp4: true\n");
        assert_eq!(fs::read_to_string(&outside).unwrap(), "02:ab:00:00:00:05");
        assert_eq!(fs::read_to_string(&main).unwrap(), "    address 10.0.0.77/24\n");
        let untouched = fs::read_dir(root.path().join("etc")).unwrap().count();
        assert_eq!(untouched, 2, "nothing is made that was not there");
    }
}
