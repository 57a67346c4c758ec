//! How much may go through a machine's network card.

/// So much in a second, and so much at once on top of it. What is above waits
/// in the card, whose guest notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    pub per_second: u64,
    pub burst: u64,
}

/// Of one direction; no limit where there is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// Of whole frames.
    pub bytes: Option<Bucket>,
    pub packets: Option<Bucket>,
}

/// What a VMM holds a card to by itself, beside whatever the host does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CardLimits {
    pub from_guest: Flow,
    pub to_guest: Flow,
}

impl CardLimits {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}
