use std::fmt;
use std::net::IpAddr;

use inn_units::{InterfaceName, PortMapId, VmId, VmName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    #[default]
    Tcp,
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the node, or a range, that is to lead to a VM or an address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMapCreate {
    #[serde(default)]
    pub protocol: Transport,
    #[schema(minimum = 1, example = 8080)]
    pub host_port: u16,
    /// The last of a range, itself included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port_end: Option<u16>,
    /// The node's address that it is at; all of them unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "127.0.0.1")]
    pub host_address: Option<IpAddr>,
    /// Only for what comes in through this interface of the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub interface: Option<InterfaceName>,
    /// Where it leads, by name or id: this or `targetAddress`. Left out for a
    /// VM's own ports at its creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub target_address: Option<IpAddr>,
    /// Where the first port leads, the others in order; `hostPort` unless
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, example = 80)]
    pub target_port: Option<u16>,
    /// The target sees the node's address in place of the client's.
    #[serde(default)]
    pub masquerade: bool,
}

/// What `POST /api/ports` takes: one, or a list of which all are made or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum PortMapsCreate {
    Many { ports: Vec<PortMapCreate> },
    One(Box<PortMapCreate>),
}

impl PortMapsCreate {
    pub fn into_vec(self) -> Vec<PortMapCreate> {
        match self {
            Self::Many { ports } => ports,
            Self::One(one) => vec![*one],
        }
    }
}

// By hand, so that what is wrong is said of the one and not of both. In a file
// the bare list is enough.
impl<'de> Deserialize<'de> for PortMapsCreate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct List {
            ports: Vec<PortMapCreate>,
        }

        let value = serde_json::Value::deserialize(deserializer)?;
        let is_list = value.get("ports").is_some();
        let read = match value {
            serde_json::Value::Array(_) => {
                Vec::deserialize(value).map(|ports| Self::Many { ports })
            }
            serde_json::Value::Object(_) if is_list => {
                List::deserialize(value).map(|List { ports }| Self::Many { ports })
            }
            serde_json::Value::Object(_) => {
                PortMapCreate::deserialize(value).map(|one| Self::One(Box::new(one)))
            }
            _ => return Err(serde::de::Error::custom("expected a port map or a list of them")),
        };
        read.map_err(serde::de::Error::custom)
    }
}

/// Ports of the node that lead elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortMap {
    #[schema(value_type = String)]
    pub id: PortMapId,
    /// `8080/tcp`, `127.0.0.1:8000-8010/udp`.
    pub name: String,
    pub protocol: Transport,
    pub host_port: u16,
    /// The last of a range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port_end: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub host_address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub interface: Option<InterfaceName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub vm: Option<VmName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub vm_id: Option<VmId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub target_address: Option<IpAddr>,
    pub target_port: u16,
    pub masquerade: bool,
    /// The addresses that it leads to now.
    #[schema(value_type = Vec<String>)]
    pub targets: Vec<IpAddr>,
    /// Why it does not lead there at present, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortMapList {
    pub items: Vec<PortMap>,
    /// What to give as `after` to go on, where there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What `POST /api/ports/restore` has found and mended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortsRestored {
    /// Port maps that are in force now.
    pub ports: usize,
    /// What was not as it should be; nothing where all was.
    pub mended: Vec<String>,
    /// Rules of others that drop what ours let through, and the way out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_or_many_are_read_and_what_is_wrong_is_named() {
        let one: PortMapsCreate =
            serde_json::from_str(r#"{"hostPort":8080,"vm":"web","targetPort":80}"#).unwrap();
        assert_eq!(one.into_vec()[0].target_port, Some(80));
        let many: PortMapsCreate =
            serde_json::from_str(r#"[{"hostPort":1,"protocol":"udp","vm":"a"},{"hostPort":2}]"#)
                .unwrap();
        assert_eq!(many.into_vec()[0].protocol, Transport::Udp);
        let list = r#"{"ports":[{"hostPort":1,"vm":"a"},{"hostPort":2}]}"#;
        let list: PortMapsCreate = serde_json::from_str(list).unwrap();
        let again = serde_json::to_string(&list).unwrap();
        assert_eq!(serde_json::from_str::<PortMapsCreate>(&again).unwrap(), list);
        let wrong = serde_json::from_str::<PortMapsCreate>(r#"[{"hostPort":1,"vms":"a"}]"#);
        assert!(wrong.unwrap_err().to_string().contains("vms"));
        let wrong = serde_json::from_str::<PortMapsCreate>("3").unwrap_err().to_string();
        assert!(wrong.contains("a port map or a list"), "{wrong}");
    }
}
