use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a VM may reach, and who may reach it. Answers to what was allowed
/// always come through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    pub mode: PolicyMode,
    /// With the mode `rules`: the first that fits decides, and what fits none
    /// is denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 256)]
    pub rules: Vec<PolicyRule>,
    /// With the mode `rules`.
    #[serde(default, skip_serializing_if = "RateLimits::is_empty")]
    pub rates: RateLimits,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyMode {
    /// Nothing but its own address and name service.
    None,
    /// Whatever its network allows.
    #[default]
    AllowAll,
    Rules,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyRule {
    #[serde(default)]
    pub direction: PolicyDirection,
    #[serde(default)]
    pub action: PolicyAction,
    /// Any unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<PolicyProtocol>,
    /// Of the receiving end, with TCP or UDP: `443`, `8000-8010`; any unless
    /// given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64, value_type = Vec<String>, example = json!(["443"]))]
    pub ports: Vec<PortRange>,
    /// The other end, as an address or a subnet; any unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "192.0.2.0/24")]
    pub cidr: Option<String>,
    /// The other end by name, for egress: `example.org`, or `*.example.org`
    /// for all below it. As the node's DNS answers for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "example.org")]
    pub domain: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyDirection {
    /// From the VM.
    #[default]
    Egress,
    /// To the VM.
    Ingress,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyAction {
    #[default]
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyProtocol {
    Tcp,
    Udp,
    Icmp,
}

/// What is above is dropped, or waits in the VM where its VMM sees to that; no limit where
/// nothing is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimits {
    /// Bytes a second from the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_bps: Option<u64>,
    /// Bytes a second to the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_bps: Option<u64>,
    /// Packets a second from the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_pps: Option<u64>,
    /// Packets a second to the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_pps: Option<u64>,
}

impl RateLimits {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `443`, or `8000-8010` with both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            self.first.fmt(f)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is no port; write 443, or 8000-8010");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.parse::<u16>().map_err(|_| wrong());
        let range = Self { first: port(first)?, last: port(last)? };
        if range.first == 0 || range.last < range.first { Err(wrong()) } else { Ok(range) }
    }
}

impl Serialize for PortRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A VM's policy, and what it has kept out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmPolicyState {
    #[serde(flatten)]
    pub policy: Policy,
    /// Since the VM's rules were last written; none where nothing was denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<DeniedCount>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeniedCount {
    /// `rule 2`, or what else kept it out, such as `metadata address`.
    pub by: String,
    pub packets: u64,
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_reads_as_it_is_written() {
        let text = r#"{"mode":"rules","rules":[{"ports":["443","8000-8010"],"protocol":"tcp",
            "domain":"*.example.org"},{"direction":"ingress","action":"deny","cidr":"10.0.0.0/8"}],
            "rates":{"egressBps":1048576}}"#;
        let policy: Policy = serde_json::from_str(text).unwrap();
        assert_eq!(policy.rules[0].ports[1], PortRange { first: 8000, last: 8010 });
        assert_eq!(policy.rules[0].direction, PolicyDirection::Egress);
        let again = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&again).unwrap(), policy);
        let plain: Policy = serde_json::from_str(r#"{"mode":"none"}"#).unwrap();
        assert_eq!(plain.mode, PolicyMode::None);
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"mode":"none"}"#);
        for bad in ["0", "9-8", "http", "70000", "1-"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad}");
        }
    }
}
