use inn_units::{EventSeq, VmId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something that has happened on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Its place in the order of all events. Never used again; some numbers
    /// are left out.
    #[schema(value_type = u64)]
    pub seq: EventSeq,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// `vm-phase`, `api-write`, …: docs/api.md lists them. There may come more.
    #[schema(example = "vm-phase")]
    pub kind: String,
    /// The VM that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<EventVm>,
    /// Who asked for it, where somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// One sentence for people.
    pub message: String,
    /// Facts for programs, by kind.
    #[schema(value_type = Object)]
    pub detail: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventVm {
    #[schema(value_type = String)]
    pub id: VmId,
    pub name: String,
}

/// Events, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventList {
    pub items: Vec<Event>,
    /// What to give as `after` to go on; also where nothing more is there yet.
    #[schema(value_type = u64)]
    pub next: EventSeq,
    /// Whether there is more already.
    pub more: bool,
    /// Set where some events after `after` are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<EventGap>,
}

/// Some events are gone, because they were too old or because this is another
/// log than the one that was read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventGap {
    /// What was asked for.
    #[schema(value_type = u64)]
    pub after: EventSeq,
    /// Where it goes on: all that is kept is after this.
    #[schema(value_type = u64)]
    pub resumed: EventSeq,
}
