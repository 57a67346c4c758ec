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
