//! A guest's files: their content, what they are, and their changes.

pub(super) mod change;
pub(super) mod look;
pub(super) mod read;
pub(super) mod uploads;
pub(super) mod watch;
pub(super) mod write;

mod range;
mod zeros;

use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::problem::Failed;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// One file's bytes.
    #[default]
    Raw,
    /// A tar of a whole tree.
    Tar,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UploadParams {
    /// Absolute.
    #[param(pattern = "^/[^\\x00]*$")]
    path: String,
    /// 16 hex digits.
    #[param(example = "0123456789abcdef")]
    #[param(pattern = "^[0-9a-fA-F]{16}$")]
    upload: String,
}

fn absolute(path: &str) -> Result<&str, Failed> {
    if path.starts_with('/') && !path.contains('\0') {
        Ok(path)
    } else {
        Err(Failed::invalid(format!("the path `{path}` is not absolute")))
    }
}
