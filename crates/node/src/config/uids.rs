//! Which users VMMs run as.

use std::fmt;
use std::str::FromStr;

/// At least that many: with fewer, machines would soon have to wait for one
/// another's end.
const FEWEST: u32 = 256;

/// Below are the system's own users, and those of packages (Debian policy,
/// 9.2.2; login.defs(5), SYS_UID_MAX).
const LOWEST: u32 = 1000;

/// nobody, and what 16 bits make of "no user" (systemd.io/UIDS-GIDS).
const NOBODIES: [u32; 2] = [65_534, 65_535];

/// `FIRST-LAST`, both of them included. The last is no VM's: logs are written
/// by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UidRange {
    pub first: u32,
    pub last: u32,
}

impl UidRange {
    pub(crate) fn contains(self, uid: u32) -> bool {
        (self.first..=self.last).contains(&uid)
    }

    /// The first of these users that a line of /etc/passwd gives a name to, or
    /// of /etc/subuid gives to somebody.
    pub(crate) fn someone_elses(self, passwd: &str, subuid: &str) -> Option<String> {
        let field = |line: &str, n: usize| line.split(':').nth(n)?.parse::<u32>().ok();
        let named =
            passwd.lines().find(|line| field(line, 2).is_some_and(|uid| self.contains(uid)));
        let lent = || {
            subuid.lines().find(|line| {
                let (Some(first), Some(count)) = (field(line, 1), field(line, 2)) else {
                    return false;
                };
                first <= self.last && first.saturating_add(count) > self.first
            })
        };
        named
            .map(|line| format!("/etc/passwd: {line}"))
            .or_else(|| lent().map(|line| format!("/etc/subuid: {line}")))
    }
}

impl fmt::Display for UidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for UidRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "must be FIRST-LAST, such as 1879048192-1879113727";
        let (first, last) = text.split_once('-').ok_or(form)?;
        let range = Self {
            first: first.trim().parse().map_err(|_| form)?,
            last: last.trim().parse().map_err(|_| form)?,
        };
        if range.first < LOWEST {
            return Err(format!("must not begin below {LOWEST}: those users are the system's own"));
        }
        // Number -1 is none (setresuid(2)).
        if range.last == u32::MAX || NOBODIES.iter().any(|uid| range.contains(*uid)) {
            return Err("must not hold 65534, 65535 or 4294967295, which are nobody".to_owned());
        }
        if range.last < range.first || range.last - range.first + 1 < FEWEST {
            return Err(format!("must hold {FEWEST} users at least: each VM has one"));
        }
        Ok(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_free_or_too_small_is_refused_with_its_reason() {
        let range: UidRange = "1879048192-1879113727".parse().unwrap();
        assert_eq!((range.first, range.last), (1_879_048_192, 1_879_113_727));
        assert_eq!(range.to_string().parse(), Ok(range));
        for (text, why) in [
            ("5", "FIRST-LAST"),
            ("a-b", "FIRST-LAST"),
            ("-1-5000", "FIRST-LAST"),
            ("999-5000", "below 1000"),
            ("0-70000", "below 1000"),
            ("60000-70000", "nobody"),
            ("4294960000-4294967295", "nobody"),
            ("100000-100254", "256 users"),
            ("200000-100000", "256 users"),
        ] {
            let error = text.parse::<UidRange>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!("100000-100255".parse::<UidRange>().is_ok());
    }

    #[test]
    fn whose_they_are_already_is_told() {
        let range: UidRange = "100000-165535".parse().unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(range.someone_elses(passwd, ""), None);
        assert_eq!(range.someone_elses(passwd, "ann:165536:65536\n"), None);
        let lent = range.someone_elses(passwd, "ann:165535:65536\n").unwrap();
        assert_eq!(lent, "/etc/subuid: ann:165535:65536");
        let named = range.someone_elses("bob:x:100001:1::/:/bin/sh", "").unwrap();
        assert!(named.starts_with("/etc/passwd: bob"), "{named}");
    }
}
