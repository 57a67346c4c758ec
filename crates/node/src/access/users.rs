use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Names that are remembered: more users than one host's group has.
const REMEMBERED: usize = 256;

/// The names of this host's users, looked up once each.
#[derive(Debug, Default)]
pub(crate) struct Users {
    known: Mutex<HashMap<u32, Option<Arc<str>>>>,
}

impl Users {
    /// As /etc/passwd has it. Users of a directory have their number.
    pub(crate) fn name(&self, uid: u32) -> Option<Arc<str>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = known.get(&uid) {
            return name.clone();
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = name_in(&passwd, uid).map(Arc::from);
        known.insert(uid, name.clone());
        name
    }
}

/// passwd(5): `name:password:uid:gid:…`.
fn name_in(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_uid() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\n# no line\nann:x:1000:1000::/home/ann:\n";
        assert_eq!(name_in(passwd, 0), Some("root"));
        assert_eq!(name_in(passwd, 1000), Some("ann"));
        assert_eq!(name_in(passwd, 1), None);
        let users = Users::default();
        assert_eq!(users.name(u32::MAX - 7), None);
        assert_eq!(users.name(u32::MAX - 7), None, "and is remembered");
    }
}
