//! Users and groups of the image, read from its own /etc/passwd and
//! /etc/group: a static program cannot ask NSS, which loads libraries.

use std::path::Path;

use crate::refusal::Refusal;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Empty for a number that has no entry.
    pub(crate) name: String,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// Of a user whose entry names none (passwd(5)).
const DEFAULT_SHELL: &str = "/bin/sh";

/// `name|uid[:name|gid]`, as container engines read it: a number needs no
/// entry; empty is root; a group that is given replaces all of the user's.
pub(crate) fn resolve(wanted: &str, etc: &Path) -> Result<User, Refusal> {
    let read = |name| {
        // An image may have none, or something that is no text.
        let bytes = std::fs::read(etc.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    let (name, group) = match wanted.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (wanted, None),
    };
    let passwd = read("passwd");
    let entry = passwd.lines().filter_map(PasswdEntry::parse).find(|entry| entry.is(name));
    let uid = match (&entry, name.parse()) {
        (Some(entry), _) => entry.uid,
        (None, Ok(uid)) => uid,
        (None, Err(_)) if name == "root" => 0,
        (None, Err(_)) => {
            return Err(Refusal::invalid(format!("find the user {name} in /etc/passwd")));
        }
    };
    let or = |text: Option<&str>, default: &str| match text {
        Some(text) if !text.is_empty() => text.to_owned(),
        _ => default.to_owned(),
    };
    let mut user = User {
        uid,
        gid: entry.as_ref().map_or(0, |entry| entry.gid),
        groups: Vec::new(),
        name: or(entry.as_ref().map(|entry| entry.name), if uid == 0 { "root" } else { "" }),
        home: or(entry.as_ref().map(|entry| entry.home), "/"),
        shell: or(entry.as_ref().map(|entry| entry.shell), DEFAULT_SHELL),
    };
    let text = read("group");
    let mut groups = text.lines().filter_map(GroupEntry::parse);
    if let Some(group) = group {
        user.gid = match (groups.find(|entry| entry.is(group)), group.parse()) {
            (Some(entry), _) => entry.gid,
            (None, Ok(gid)) => gid,
            (None, Err(_)) => {
                return Err(Refusal::invalid(format!("find the group {group} in /etc/group")));
            }
        };
        user.groups = vec![user.gid];
        return Ok(user);
    }
    user.groups = vec![user.gid];
    if let Some(entry) = &entry {
        let others = groups.filter(|group| group.gid != entry.gid && group.has(entry.name));
        user.groups.extend(others.map(|group| group.gid));
    }
    Ok(user)
}

/// passwd(5): name, password, uid, gid, comment, home, shell.
#[derive(Debug)]
struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
    shell: &'a str,
}

impl<'a> PasswdEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).unwrap_or_default();
        let shell = fields.next().unwrap_or_default();
        Some(Self { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home, shell })
    }

    fn is(&self, wanted: &str) -> bool {
        self.name == wanted || wanted.parse() == Ok(self.uid)
    }
}

/// group(5): name, password, gid, members.
#[derive(Debug)]
struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        let members = fields.next().unwrap_or_default();
        Some(Self { name, gid: gid.parse().ok()?, members })
    }

    fn is(&self, wanted: &str) -> bool {
        self.name == wanted || wanted.parse() == Ok(self.gid)
    }

    fn has(&self, user: &str) -> bool {
        self.members.split(',').any(|member| member == user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etc() -> tempfile::TempDir {
        let etc = tempfile::tempdir().unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\n\
                      web:x:33:33:www:/var/www:/usr/sbin/nologin\nempty:x:7:7:::\n";
        let group = "root:x:0:\nwww:x:33:\nadm:x:4:sys,web\nvideo:x:44:web\nno:x:y:web\n";
        std::fs::write(etc.path().join("passwd"), passwd).unwrap();
        std::fs::write(etc.path().join("group"), group).unwrap();
        etc
    }

    #[test]
    fn names_and_numbers() {
        let etc = etc();
        let web = User {
            uid: 33,
            gid: 33,
            groups: vec![33, 4, 44],
            name: "web".into(),
            home: "/var/www".into(),
            shell: "/usr/sbin/nologin".into(),
        };
        assert_eq!(resolve("web", etc.path()).unwrap(), web);
        assert_eq!(resolve("33", etc.path()).unwrap(), web);
        let video = User { gid: 44, groups: vec![44], ..web.clone() };
        assert_eq!(resolve("web:video", etc.path()).unwrap(), video);
        let root = resolve("", etc.path()).unwrap();
        assert_eq!((root.home.as_str(), root.shell.as_str()), ("/root", "/bin/bash"));
        let empty = resolve("empty", etc.path()).unwrap();
        assert_eq!((empty.home.as_str(), empty.shell.as_str()), ("/", "/bin/sh"));
    }

    #[test]
    fn strangers_have_numbers_only() {
        let etc = etc();
        let stranger = User {
            uid: 1000,
            gid: 0,
            groups: vec![0],
            name: String::new(),
            home: "/".into(),
            shell: "/bin/sh".into(),
        };
        assert_eq!(resolve("1000", etc.path()).unwrap(), stranger);
        let both = User { gid: 1001, groups: vec![1001], ..stranger };
        assert_eq!(resolve("1000:1001", etc.path()).unwrap(), both);
        assert!(resolve("nobody-here", etc.path()).is_err());
        assert!(resolve("web:no-group", etc.path()).is_err());
        assert!(resolve("-1", etc.path()).is_err());
    }

    #[test]
    fn an_image_without_either_has_root() {
        let etc = tempfile::tempdir().unwrap();
        let root = resolve("", etc.path()).unwrap();
        assert_eq!((root.uid, root.gid, root.groups.as_slice()), (0, 0, &[0][..]));
        assert_eq!((root.name.as_str(), root.home.as_str()), ("root", "/"));
        assert_eq!(resolve("root", etc.path()).unwrap(), root);
    }
}
