use inn_units::{VmId, VmName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::EndKind;

/// What reading the configuration again has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reload {
    /// Keys with new values.
    pub changed: Vec<String>,
    /// Keys whose new values wait for a restart of the agent.
    pub waiting: Vec<String>,
}

/// Guests after `POST /api/node/guests/shutdown`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuestsDown {
    pub items: Vec<GuestDown>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuestDown {
    #[schema(value_type = String)]
    pub id: VmId,
    #[schema(value_type = String)]
    pub name: VmName,
    /// Whether it ran before.
    pub ran: bool,
    /// Whether it is down.
    pub down: bool,
    /// How it came down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<EndKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The names of guests that start after `POST /api/node/guests/start`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuestsStarted {
    #[schema(value_type = Vec<String>)]
    pub items: Vec<VmName>,
}

/// What `POST /api/node/upgrade` takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Upgrade {
    /// The new program, absolute; without it the file that the agent was
    /// started from. Only the host's owner names one, on the unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Leased VMs end with the agent that has them: do it all the same.
    #[serde(default)]
    pub end_leased: bool,
}

/// The upgrade that begins once this is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeBegun {
    pub program: String,
    pub from_version: String,
    pub to_version: String,
}
