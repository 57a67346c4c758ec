//! `inn network`, `inn vm ip` and `inn vm policy`.

use std::io::Read;
use std::path::Path;

use inn_client::api::{
    HostNetwork, NetworkCreate, NetworkKind, Policy, PolicyMode, PolicyRule, VmPolicyState,
};
use jiff::Timestamp;

use crate::args::{
    IpArgs, KindArg, NetworkCommand, NetworkCreateArgs, PolicyModeArg, VmPolicyArgs,
};
use crate::context::Context;
use crate::failure::Failure;
use crate::table::Table;
use crate::view::{age, bytes};

pub(crate) async fn network(context: &Context, command: &NetworkCommand) -> Result<u8, Failure> {
    match command {
        NetworkCommand::Create(args) => create(context, args).await,
        NetworkCommand::List => {
            let networks = context.client().await?.networks().await?.items;
            context.result(&networks, || table(&networks, Timestamp::now()))?;
            Ok(0)
        }
        NetworkCommand::Show { networks } => show(context, networks).await,
        NetworkCommand::Delete { networks } => delete(context, networks).await,
        NetworkCommand::Plan => {
            let plan = context.client().await?.network_plan().await?;
            context.result(&plan, || plan.script.clone())?;
            Ok(0)
        }
    }
}

async fn create(context: &Context, args: &NetworkCreateArgs) -> Result<u8, Failure> {
    let mut request = NetworkCreate {
        name: args.name.clone(),
        kind: match args.kind {
            KindArg::Nat => NetworkKind::Nat,
            KindArg::Routed => NetworkKind::Routed,
            KindArg::Isolated => NetworkKind::Isolated,
        },
        ipv4: None,
        ipv6: None,
        uplink: args.uplink.clone(),
        mtu: args.mtu,
        peers: args.peers,
        host: args.allow_host,
        metadata: args.allow_metadata,
    };
    for subnet in &args.subnets {
        let slot = if subnet.contains(':') { &mut request.ipv6 } else { &mut request.ipv4 };
        if slot.replace(subnet.clone()).is_some() {
            return Err(Failure::usage(format!(
                "--subnet {subnet} is the second of its family; a network has one of each"
            )));
        }
    }
    let network = context.client().await?.create_network(&request).await?;
    context.result(&network, || {
        let subnets = subnets(&network);
        if context.globals.quiet {
            format!("{}\n", network.name)
        } else {
            format!("{} ({}): {subnets}\n", network.name, network.id)
        }
    })?;
    Ok(0)
}

async fn show(context: &Context, names: &[String]) -> Result<u8, Failure> {
    let client = context.client().await?;
    let mut networks = Vec::with_capacity(names.len());
    for name in names {
        networks.push(client.network(name).await?);
    }
    context.result(&networks, || {
        let blocks: Vec<String> =
            networks.iter().map(|one| describe(one, Timestamp::now())).collect();
        blocks.join("\n")
    })?;
    Ok(0)
}

async fn delete(context: &Context, names: &[String]) -> Result<u8, Failure> {
    let client = context.client().await?;
    let (mut deleted, mut failed) = (Vec::new(), None);
    for name in names {
        match client.delete_network(name).await {
            Ok(network) => deleted.push(network),
            // The others are not spared by it; what was first is said.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    context.result(&deleted, || {
        deleted
            .iter()
            .map(|network| format!("{} ({}) is deleted\n", network.name, network.id))
            .collect()
    })?;
    failed.map_or(Ok(0), |error| Err(error.into()))
}

fn subnets(network: &HostNetwork) -> String {
    let both: Vec<&str> = network.ipv4.iter().chain(&network.ipv6).map(String::as_str).collect();
    both.join(", ")
}

fn kind(network: &HostNetwork) -> &'static str {
    match network.kind {
        NetworkKind::Nat => "nat",
        NetworkKind::Routed => "routed",
        NetworkKind::Isolated => "isolated",
    }
}

fn table(networks: &[HostNetwork], now: Timestamp) -> String {
    let mut table = Table::new(["ID", "NAME", "KIND", "SUBNETS", "BRIDGE", "VMS", "CREATED"]);
    for network in networks {
        table.push([
            network.id.to_string(),
            network.name.to_string(),
            kind(network).to_owned(),
            subnets(network),
            network.bridge.to_string(),
            network.vms.len().to_string(),
            format!("{} ago", age(network.created_at, now)),
        ]);
    }
    table.render()
}

fn describe(network: &HostNetwork, now: Timestamp) -> String {
    let gateways: Vec<String> = network.gateways.iter().map(ToString::to_string).collect();
    let yes_or_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let uplink = network.uplink.as_ref().map(ToString::to_string);
    let lines = [
        ("name", network.name.to_string()),
        ("id", network.id.to_string()),
        ("kind", kind(network).to_owned()),
        ("subnets", subnets(network)),
        ("gateways", gateways.join(", ")),
        ("bridge", network.bridge.to_string()),
        ("uplink", uplink.unwrap_or_else(|| "the default route's".to_owned())),
        ("mtu", network.mtu.map_or_else(|| "the uplink's".to_owned(), |mtu| mtu.to_string())),
        (
            "VMs reach",
            format!(
                "each other: {}, this host: {}, cloud metadata: {}",
                yes_or_no(network.peers),
                yes_or_no(network.host),
                yes_or_no(network.metadata)
            ),
        ),
        ("VMs", if network.vms.is_empty() { "none".to_owned() } else { network.vms.join(", ") }),
        ("created", format!("{} ago ({})", age(network.created_at, now), network.created_at)),
    ];
    let problems = network.problems.iter().map(|why| ("does not run", why.clone()));
    let lines = lines.into_iter().chain(problems);
    lines.map(|(key, value)| format!("{key:<15} {value}\n")).collect()
}

pub(crate) async fn ip(context: &Context, args: &IpArgs) -> Result<u8, Failure> {
    let client = context.client().await?;
    let address = match args.change() {
        Some(change) => client.set_address(args.vm.name(), &change).await?,
        None => client.vm_address(args.vm.name(), args.timeout).await?,
    };
    if let Some(pending) = &address.pending {
        context.note(&format!("VM {}: {pending}", args.vm.name()));
    }
    let v4 = address.ipv4.map(|address| address.to_string());
    let v6 = address.ipv6.map(|address| address.to_string());
    let one = if args.ipv6 { v6 } else { v4.or(v6) };
    let one = one.ok_or_else(|| {
        Failure::new(format!("VM {} has no IPv6 address; leave -6 out", args.vm.name()))
    })?;
    context.result(&address, || format!("{one}\n"))?;
    Ok(0)
}

pub(crate) async fn policy(context: &Context, args: &VmPolicyArgs) -> Result<u8, Failure> {
    let wanted = match (&args.mode, &args.file) {
        (Some(PolicyModeArg::None), _) => {
            Some(Policy { mode: PolicyMode::None, ..Policy::default() })
        }
        (Some(PolicyModeArg::AllowAll), _) => Some(Policy::default()),
        (None, Some(file)) => Some(from_json(file)?),
        (None, None) => None,
    };
    let client = context.client().await?;
    let name = args.vm.name();
    let state = match wanted {
        Some(policy) => client.set_policy(name, &policy).await?,
        None => client.vm(name).await?.policy,
    };
    context.result(&state, || {
        policy_lines(&state)
            .into_iter()
            .map(|(key, value)| format!("{key:<15} {value}\n"))
            .collect()
    })?;
    Ok(0)
}

/// JSON of a file, or of stdin.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(file: &Path) -> Result<T, Failure> {
    let shown = file.display();
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| Failure::because(format!("cannot read {shown}"), &error))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::because(format!("{shown} is not as it should be"), &error))
}

/// For a person: what holds, rule by rule, and what was kept out.
pub(crate) fn policy_lines(state: &VmPolicyState) -> Vec<(&'static str, String)> {
    let policy = &state.policy;
    let mut lines = vec![(
        "policy",
        match policy.mode {
            PolicyMode::None => "none".to_owned(),
            PolicyMode::AllowAll => "allow_all".to_owned(),
            PolicyMode::Rules => format!("{} rules; what fits none is denied", policy.rules.len()),
        },
    )];
    lines.extend(
        policy.rules.iter().enumerate().map(|(i, one)| ("", format!("{}. {}", i + 1, rule(one)))),
    );
    let rates = &policy.rates;
    for (what, rate) in [("from the VM", rates.egress_bps), ("to the VM", rates.ingress_bps)] {
        lines.extend(rate.map(|rate| ("at most", format!("{}/s {what}", bytes(rate)))));
    }
    for (what, rate) in [("from the VM", rates.egress_pps), ("to the VM", rates.ingress_pps)] {
        lines.extend(rate.map(|rate| ("at most", format!("{rate} packets/s {what}"))));
    }
    lines.extend(state.denied.iter().map(|count| {
        let (by, packets) = (&count.by, count.packets);
        ("denied", format!("{packets} packets, {} ({by})", bytes(count.bytes)))
    }));
    lines
}

/// `allow tcp 443 to example.org`.
fn rule(rule: &PolicyRule) -> String {
    use inn_client::api::{PolicyAction, PolicyDirection, PolicyProtocol};
    let action = match rule.action {
        PolicyAction::Allow => "allow",
        PolicyAction::Deny => "deny",
    };
    let protocol = match rule.protocol {
        None => "anything",
        Some(PolicyProtocol::Tcp) => "tcp",
        Some(PolicyProtocol::Udp) => "udp",
        Some(PolicyProtocol::Icmp) => "icmp",
    };
    let ports: Vec<String> = rule.ports.iter().map(ToString::to_string).collect();
    let ports = if ports.is_empty() { String::new() } else { format!(" {}", ports.join(",")) };
    let word = match rule.direction {
        PolicyDirection::Egress => "to",
        PolicyDirection::Ingress => "from",
    };
    let far = rule.cidr.as_ref().or(rule.domain.as_ref()).map_or("anywhere", String::as_str);
    format!("{action} {protocol}{ports} {word} {far}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_reads_as_a_list_of_sentences() {
        let state: VmPolicyState = serde_json::from_value(serde_json::json!({
            "mode": "rules",
            "rules": [
                { "protocol": "tcp", "ports": ["443", "8000-8010"], "domain": "example.org" },
                { "direction": "ingress", "action": "deny", "cidr": "10.0.0.0/8" },
            ],
            "rates": { "egressBps": 1 << 20, "ingressPps": 9 },
            "denied": [{ "by": "rule 2", "packets": 3, "bytes": 180 }],
        }))
        .unwrap();
        let lines: Vec<String> = policy_lines(&state).into_iter().map(|(_, line)| line).collect();
        assert_eq!(lines[0], "2 rules; what fits none is denied");
        assert_eq!(lines[1], "1. allow tcp 443,8000-8010 to example.org");
        assert_eq!(lines[2], "2. deny anything from 10.0.0.0/8");
        assert!(lines[4].starts_with("9 packets/s to the VM"), "{lines:?}");
        assert!(lines[5].starts_with("3 packets") && lines[5].contains("rule 2"), "{lines:?}");
    }
}
