//! Users and groups of the image, read from its own /etc/passwd and
//! /etc/group: a static program cannot ask NSS, which loads libraries.

use std::path::Path;

use crate::refusal::Refusal;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

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
            return Err(Refusal::not_found(format!("find the user {name} in /etc/passwd")));
        }
    };
    let home = entry.as_ref().map(|entry| entry.home).filter(|home| !home.is_empty());
    let home = home.unwrap_or("/").to_owned();
    if let Some(group) = group {
        let groups = read("group");
        let known = groups.lines().filter_map(GroupEntry::parse).find(|entry| entry.is(group));
        let gid = match (known, group.parse()) {
            (Some(entry), _) => entry.gid,
            (None, Ok(gid)) => gid,
            (None, Err(_)) => {
                return Err(Refusal::not_found(format!("find the group {group} in /etc/group")));
            }
        };
        return Ok(User { uid, gid, groups: vec![gid], home });
    }
    let gid = entry.as_ref().map_or(0, |entry| entry.gid);
    let mut groups = vec![gid];
    if let Some(entry) = &entry {
        let text = read("group");
        let others = text.lines().filter_map(GroupEntry::parse);
        groups.extend(others.filter(|g| g.gid != gid && g.has(entry.name)).map(|g| g.gid));
    }
    Ok(User { uid, gid, groups, home })
}

/// passwd(5): name, password, uid, gid, comment, home, shell.
#[derive(Debug)]
struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let home = fields.nth(1).unwrap_or_default();
        Some(Self { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
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
        let web = User { uid: 33, gid: 33, groups: vec![33, 4, 44], home: "/var/www".into() };
        assert_eq!(resolve("web", etc.path()).unwrap(), web);
        assert_eq!(resolve("33", etc.path()).unwrap(), web);
        let video = User { gid: 44, groups: vec![44], ..web.clone() };
        assert_eq!(resolve("web:video", etc.path()).unwrap(), video);
        assert_eq!(resolve("", etc.path()).unwrap().home, "/root");
        assert_eq!(resolve("empty", etc.path()).unwrap().home, "/");
    }

    #[test]
    fn strangers_have_numbers_only() {
        let etc = etc();
        let stranger = User { uid: 1000, gid: 0, groups: vec![0], home: "/".into() };
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
        let root = User { uid: 0, gid: 0, groups: vec![0], home: "/".into() };
        assert_eq!(resolve("", etc.path()).unwrap(), root);
        assert!(resolve("root", etc.path()).is_ok_and(|user| user == root));
    }
}
