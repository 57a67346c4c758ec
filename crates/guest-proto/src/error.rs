use crate::{MAX_DATA, MAX_FRAME, MAX_STREAMS, Version};

/// What a peer did that the protocol does not allow. The session is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("a frame of {length} bytes, and at most {MAX_FRAME} are allowed")]
    FrameTooLarge { length: u32 },
    #[error("a frame without its seal")]
    BrokenSeal,
    #[error("a new opening in the middle of a session")]
    Reopened,
    #[error("a frame that is no message")]
    Undecodable(#[source] prost::DecodeError),
    #[error("{message} before the hello")]
    ExpectedHello { message: &'static str },
    #[error("version {theirs} of the protocol, and this end speaks {ours}")]
    Version { ours: Version, theirs: Version },
    #[error("{message} on stream {stream}, which this end does not take")]
    Misdirected { message: &'static str, stream: u32 },
    #[error("{message} on stream {stream}, which was never opened or is over")]
    UnknownStream { message: &'static str, stream: u32 },
    #[error("stream {stream} opened again")]
    StreamReused { stream: u32 },
    #[error("more than {MAX_STREAMS} streams")]
    TooManyStreams,
    #[error("{size} bytes in one message, and at most {MAX_DATA} are allowed")]
    DataTooLarge { size: usize },
    #[error("more data on stream {stream} than it has credit for")]
    CreditExceeded { stream: u32 },
    #[error("more credit on stream {stream} than a window holds")]
    CreditOverflow { stream: u32 },
    #[error("data on stream {stream} after its end")]
    DataAfterEof { stream: u32 },
    #[error("data on stream {stream} on a channel {channel} that does not exist")]
    UnknownChannel { stream: u32, channel: i32 },
    /// It says itself why it gives up.
    #[error("it gave up: {reason}")]
    Goodbye { reason: String },
}

/// Why this end may not send something now. A caller that keeps to its credit
/// never sees one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the session is not open")]
    NotOpen,
    #[error("the stream is over")]
    NoStream,
    #[error("the stream has no credit for so much")]
    NoCredit,
    #[error("{size} bytes, and {limit} fit")]
    TooLarge { size: usize, limit: usize },
    #[error("too much is queued already")]
    Busy,
}
