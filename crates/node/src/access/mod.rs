//! Who asks, and what they are good for.
//!
//! ```text
//!   unix socket ── uid ──────▶┐
//!                             ├─▶ Principal ─▶ http/scope.rs: may they ask this?
//!   TCP ── bearer token ─────▶┘       └──────▶ which VMs do they see?
//! ```
//!
//! A [`Principal`] is found anew for each request (`http/auth.rs`), so that a
//! token that is revoked is good for nothing from the next request on. It
//! lies in the request's extensions.

mod rate;
mod tokens;
mod users;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use inn_domain::Scope;
use inn_units::{TokenId, VmId};

pub(crate) use rate::Rates;
pub(crate) use tokens::{NewToken, TokenEnd, TokenError, Tokens, id_of_certificate};
pub(crate) use users::Users;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Principal {
    pub(crate) who: Who,
    /// `None` may ask only what anybody may.
    pub(crate) scope: Option<Scope>,
    /// The VMs that are all there is for them; `None` without such a limit.
    /// By id: another VM that is given the name of one of them is not one.
    pub(crate) vms: Option<Arc<BTreeSet<VmId>>>,
}

/// As it is written into logs and events.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    /// On the unix socket.
    User {
        uid: u32,
        /// As /etc/passwd has it.
        name: Option<Arc<str>>,
    },
    /// Over TCP.
    Token { id: TokenId, name: Arc<str> },
    /// Over TCP, by a certificate alone: the first 8 bytes of its SHA-256.
    Certificate { id: TokenId },
    /// Whoever has shown nothing.
    Nobody,
}

impl Principal {
    pub(crate) const NOBODY: Self = Self { who: Who::Nobody, scope: None, vms: None };

    pub(crate) fn may(&self, needed: Scope) -> bool {
        self.scope.is_some_and(|scope| scope.covers(needed))
    }

    pub(crate) fn sees(&self, vm: VmId) -> bool {
        self.scope.is_some() && self.vms.as_ref().is_none_or(|vms| vms.contains(&vm))
    }

    /// Whether there is nothing for them but some VMs.
    pub(crate) fn is_limited(&self) -> bool {
        self.vms.is_some()
    }
}

impl Who {
    /// What stays the same whatever they are called.
    pub(crate) fn id(&self) -> String {
        match self {
            Self::User { uid, .. } => format!("uid {uid}"),
            Self::Token { id, .. } => format!("token {id}"),
            Self::Certificate { id } => format!("certificate {id}"),
            Self::Nobody => "nobody".to_owned(),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { uid, name: Some(name) } => write!(f, "user {name} (uid {uid})"),
            Self::User { uid, name: None } => write!(f, "uid {uid}"),
            Self::Token { id, name } => write!(f, "token {name} ({id})"),
            Self::Certificate { id } => write!(f, "client certificate {id}"),
            Self::Nobody => f.write_str("nobody"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_sees_nothing_and_a_limit_is_by_id() {
        let vm = |n| VmId::from_bytes([n; 5]);
        assert!(!Principal::NOBODY.sees(vm(1)) && !Principal::NOBODY.may(Scope::Read));
        let all = Principal { scope: Some(Scope::Read), ..Principal::NOBODY };
        assert!(all.sees(vm(1)) && all.may(Scope::Read) && !all.may(Scope::Operate));
        let some = Principal { vms: Some(Arc::new([vm(1)].into())), ..all };
        assert!(some.is_limited() && some.sees(vm(1)) && !some.sees(vm(2)));
    }
}
