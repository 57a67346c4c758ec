use inn_domain::Guest;

use crate::row::StoredGuest;

impl From<Guest> for StoredGuest {
    fn from(guest: Guest) -> Self {
        match guest {
            Guest::Booting => Self::Booting,
            Guest::Answered => Self::Answered,
            Guest::Configured => Self::Configured,
            Guest::Up => Self::Up,
            // Of this life: whoever reads it next adopts the machine anew.
            Guest::Adopted | Guest::Lost => Self::Lost,
            Guest::Absent => Self::Absent,
        }
    }
}

impl From<StoredGuest> for Guest {
    fn from(guest: StoredGuest) -> Self {
        match guest {
            StoredGuest::Booting => Self::Booting,
            StoredGuest::Answered => Self::Answered,
            StoredGuest::Configured => Self::Configured,
            StoredGuest::Up => Self::Up,
            StoredGuest::Lost => Self::Lost,
            StoredGuest::Absent => Self::Absent,
        }
    }
}
