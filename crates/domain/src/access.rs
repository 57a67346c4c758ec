use std::fmt;
use std::str::FromStr;

/// How much somebody may do. Each scope holds those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Looks, and sees no secret and nothing from within a guest but its
    /// figures and logs.
    Read,
    /// Makes, changes and enters VMs.
    Operate,
    /// Says who may do what, and what the node is for.
    Admin,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the scope must be read, operate or admin")]
pub struct UnknownScope;

impl Scope {
    pub const ALL: [Self; 3] = [Self::Read, Self::Operate, Self::Admin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }

    pub fn covers(self, needed: Self) -> bool {
        self >= needed
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(UnknownScope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scope_covers_itself_and_those_before_it() {
        for (i, scope) in Scope::ALL.into_iter().enumerate() {
            assert_eq!(scope.to_string().parse(), Ok(scope));
            for (j, needed) in Scope::ALL.into_iter().enumerate() {
                assert_eq!(scope.covers(needed), i >= j, "{scope} for {needed}");
            }
        }
        assert_eq!("Admin".parse::<Scope>(), Err(UnknownScope));
    }
}
