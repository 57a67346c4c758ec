use std::fmt;
use std::str::FromStr;

use crate::ParseError;

/// Declares an id: `N` random bytes, written as `2 N` lowercase hex digits.
/// The caller brings the randomness; this crate has none.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            pub const BYTES: usize = $bytes;

            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let hex: String = self.0.iter().map(|b| format!("{b:02x}")).collect();
                f.pad(&hex)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                let refuse = || {
                    ParseError::new($what, text, concat!("is not ", $bytes, " bytes in lowercase hex"))
                };
                if text.len() != 2 * $bytes
                    || !text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
                {
                    return Err(refuse());
                }
                let mut out = [0u8; $bytes];
                for (i, byte) in out.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| refuse())?;
                }
                Ok(Self(out))
            }
        }

        crate::serde_as_text!($name);
    };
}

id!(
    /// Names a VM for ever. Host resources derive their names from it, hence
    /// short: with a tap's prefix it must fit the 15 characters of an
    /// interface name (linux/if.h, IFNAMSIZ).
    VmId, 5, "VM id"
);
id!(
    /// Names a network for ever; its bridge derives its name from it.
    NetworkId, 5, "network id"
);
id!(
    /// Names a port map.
    PortMapId, 8, "port map id"
);
id!(
    /// Names one execution inside a VM, across reconnections of the channel.
    ExecId, 8, "exec id"
);
id!(
    /// Names a long piece of work that the agent does for a client.
    OperationId, 8, "operation id"
);
id!(
    /// Names a snapshot, or what a VM was forked from.
    SnapshotId, 8, "snapshot id"
);
id!(
    /// Names a bearer token, and tells nothing of it.
    TokenId, 8, "token id"
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_form_round_trips(bytes in any::<[u8; 5]>()) {
            let id = VmId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse::<VmId>().unwrap(), id);
        }

        #[test]
        fn other_text_is_refused(text in "[^0-9a-f]{0,20}") {
            prop_assert!(text.parse::<VmId>().is_err());
        }
    }
}
