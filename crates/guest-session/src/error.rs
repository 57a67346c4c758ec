use std::sync::Arc;

/// Why the guest did not do what it was asked. Cheap to clone: the end of a
/// session is told to everyone who waits on it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GuestError {
    /// The session is over: the VM ended, its agent died, or we closed it.
    #[error("the guest's session is closed: {reason}")]
    Closed { reason: String },
    /// The guest answered that it will not or cannot.
    #[error("the guest cannot {what}{}", describe(*errno))]
    Refused { what: String, kind: RefusedKind, errno: Option<i32> },
    /// It said something that the protocol does not allow. The session ends.
    #[error("the guest broke the protocol")]
    Protocol(#[source] Arc<inn_guest_proto::ProtocolError>),
    #[error("the guest did not answer within {} s: {what}", after.as_secs_f32())]
    Timeout { what: String, after: std::time::Duration },
    /// The bytes that arrived are not those that were sent.
    #[error("{what} arrived damaged: its checksum differs")]
    Damaged { what: String },
    /// What was asked does not fit the protocol's limits.
    #[error("{what} is too large for the guest: {size} bytes, and {limit} fit")]
    TooLarge { what: String, size: usize, limit: usize },
    #[error("the guest's channel failed: {step}")]
    Io { step: &'static str, source: Arc<std::io::Error> },
}

impl GuestError {
    /// Stable, for machines; the first part of an API error's detail.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Closed { .. } => "guest-closed",
            Self::Refused { kind, .. } => kind.code(),
            Self::Protocol(_) => "guest-protocol",
            Self::Timeout { .. } => "guest-timeout",
            Self::Damaged { .. } => "guest-damaged",
            Self::TooLarge { .. } => "guest-too-large",
            Self::Io { .. } => "guest-io",
        }
    }

    /// There is no session, or none any more.
    pub fn closed(reason: impl Into<String>) -> Self {
        Self::Closed { reason: reason.into() }
    }
}

/// The kind of a refusal, coarser than errno and the same on every guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedKind {
    /// A file, program, user or exec that is not there.
    NotFound,
    /// Permissions; for an exec also a file that is no program.
    Denied,
    AlreadyExists,
    Invalid,
    /// This guest does not know the request.
    Unsupported,
    /// A limit of the guest: too many execs, no memory.
    Exhausted,
    /// Its disk is full.
    NoSpace,
    /// It is not what the request expected it to be any more.
    Changed,
    /// Everything else; the errno says more.
    Failed,
}

impl RefusedKind {
    pub fn code(self) -> &'static str {
        match self {
            Self::NotFound => "guest-not-found",
            Self::Denied => "guest-denied",
            Self::AlreadyExists => "guest-already-exists",
            Self::Invalid => "guest-invalid",
            Self::Unsupported => "guest-unsupported",
            Self::Exhausted => "guest-exhausted",
            Self::NoSpace => "guest-no-space",
            Self::Changed => "guest-changed",
            Self::Failed => "guest-failed",
        }
    }
}

fn describe(errno: Option<i32>) -> String {
    match errno {
        Some(errno) => {
            let text = std::io::Error::from_raw_os_error(errno).to_string();
            // "No such file or directory (os error 2)" → without the number.
            let text = text.split(" (os error").next().unwrap_or_default();
            format!(": {}", text.to_lowercase())
        }
        None => String::new(),
    }
}
