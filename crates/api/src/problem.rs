use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Stable names of what can go wrong; clients match on these, never on text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request is malformed or asks for what cannot be.
    InvalidRequest,
    /// No such VM, image, operation or route.
    NotFound,
    /// The name is taken.
    NameInUse,
    /// The resource's state does not allow this now.
    Conflict,
    /// The node is drained: it takes and starts no VMs.
    Drained,
    /// Something still uses it.
    InUse,
    /// The node has not enough memory, CPU or disk for this.
    InsufficientResources,
    /// The node's disk is full.
    DiskFull,
    /// What was given as an image is none, or is damaged.
    InvalidImage,
    /// The node lacks a program or a kernel feature.
    MissingPrerequisite,
    /// The VM could not be brought to what was asked.
    VmFailed,
    /// The guest agent did not answer in time or is not there.
    GuestUnavailable,
    /// The guest refused or failed what was asked.
    GuestError,
    /// The guest's disk is full.
    GuestDiskFull,
    /// The guest's file is not the one that the request is about any more.
    GuestFileChanged,
    /// A deadline ran out.
    Timeout,
    /// No or wrong credentials.
    Unauthorized,
    /// Valid credentials without the right to do this.
    Forbidden,
    /// The body is larger than any that is taken here.
    BodyTooLarge,
    /// The body is not JSON by its `Content-Type`.
    UnsupportedMediaType,
    /// The request came too slowly.
    RequestTimeout,
    /// What is needed from elsewhere, such as a registry, did not come.
    RemoteFailed,
    /// A limit of the API itself: rate, connections, operations.
    LimitExceeded,
    /// A fault of the agent's.
    Internal,
}

impl Code {
    /// The HTTP status this code always comes with.
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::InvalidImage => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::NameInUse
            | Self::Conflict
            | Self::Drained
            | Self::InUse
            | Self::VmFailed
            | Self::MissingPrerequisite
            | Self::GuestUnavailable
            | Self::GuestError => 409,
            Self::RequestTimeout => 408,
            Self::GuestFileChanged => 412,
            Self::BodyTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RemoteFailed => 424,
            Self::LimitExceeded => 429,
            Self::Internal => 500,
            Self::Timeout => 504,
            Self::InsufficientResources | Self::DiskFull | Self::GuestDiskFull => 507,
        }
    }

    /// The code as it stands in JSON.
    pub fn as_str(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(s)) => s,
            _ => "internal".into(),
        }
    }
}

/// An error body: RFC 9457, media type `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{detail}")]
pub struct Problem {
    /// `urn:innkeeper:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every occurrence of the code.
    pub title: String,
    pub status: u16,
    /// One sentence that names the thing and the way out.
    pub detail: String,
    pub code: Code,
    /// The console's last lines, where they help.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<String>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let name = code.as_str();
        Self {
            kind: format!("urn:innkeeper:problem:{name}"),
            title: name.replace('-', " "),
            status: code.status(),
            detail: detail.into(),
            code,
            console: Vec::new(),
        }
    }
}
