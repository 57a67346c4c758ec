use inn_client::api::exec::Status;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::Captured;

/// How a command went in one VM, for `-o json`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExecReport {
    pub id: String,
    pub name: String,
    /// None when the command never ran or its end is unknown.
    pub exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    pub timed_out: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub stdout: String,
    pub stderr: String,
    pub truncated: bool,
}

impl ExecReport {
    pub(crate) fn new(id: &str, name: &str, status: &Status, output: Captured) -> Self {
        let exit_code = status.exit_code();
        let error = (exit_code.is_none()).then(|| status.message.clone());
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            exit_code,
            signal: status.cause("Signal").map(str::to_owned),
            timed_out: status.cause("Timeout").is_some(),
            error,
            // Output that is no UTF-8 cannot stand in JSON as it is.
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            truncated: output.truncated || status.cause("Truncated").is_some(),
        }
    }

    /// Of a command that could not be run at all.
    pub(crate) fn failed(name: &str, failure: &Failure) -> Self {
        Self {
            name: name.to_owned(),
            error: Some(failure.sentence().to_owned()),
            ..Self::default()
        }
    }
}
