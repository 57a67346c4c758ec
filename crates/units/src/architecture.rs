use std::fmt;
use std::str::FromStr;

use crate::ParseError;

/// What a guest's CPUs are, by the names of Linux (`uname -m`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Architecture {
    X86_64,
    Aarch64,
}

impl Architecture {
    /// Of this program, and so of the node's kernels and of the guest agent that
    /// is in it.
    pub const OURS: Self = match cfg!(target_arch = "aarch64") {
        true => Self::Aarch64,
        false => Self::X86_64,
    };

    /// Whether the node's kernels, and its guest agent, are for such guests. Of
    /// others a disk is booted, and nobody of ours is in them.
    pub fn has_our_agent(self) -> bool {
        self == Self::OURS
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Architecture {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        [Self::X86_64, Self::Aarch64]
            .into_iter()
            .find(|one| one.as_str() == text)
            .ok_or_else(|| ParseError::new("architecture", text, "must be x86_64 or aarch64"))
    }
}

crate::serde_as_text!(Architecture);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_the_name_that_linux_has_for_it() {
        for text in ["x86_64", "aarch64"] {
            assert_eq!(text.parse::<Architecture>().unwrap().to_string(), text);
        }
        let refused = "arm64".parse::<Architecture>().unwrap_err().to_string();
        assert!(refused.contains("must be x86_64 or aarch64"), "{refused}");
    }
}
