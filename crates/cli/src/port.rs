//! `inn port`: ports of this host that lead elsewhere.

use inn_client::api::{PortMap, PortMapCreate, PortMapsCreate};

use crate::args::{PortAddArgs, PortCommand};
use crate::context::Context;
use crate::failure::Failure;
use crate::network::from_json;
use crate::table::Table;

pub(crate) async fn port(context: &Context, command: &PortCommand) -> Result<u8, Failure> {
    match command {
        PortCommand::Add(args) => add(context, args).await,
        PortCommand::List { vm } => list(context, vm.as_deref()).await,
        PortCommand::Delete { ports } => delete(context, ports).await,
        PortCommand::Restore => {
            let restored = context.client().await?.restore_ports().await?;
            context.result(&restored, || {
                let ports = restored.ports;
                let mut text = match restored.mended.len() {
                    0 => format!("{ports} port maps hold; nothing had to be mended\n"),
                    1 => format!("{ports} port maps hold; 1 thing was mended\n"),
                    n => format!("{ports} port maps hold; {n} things were mended\n"),
                };
                for why in &restored.blocked {
                    text.push_str(&format!("in the way: {why}\n"));
                }
                text
            })?;
            Ok(0)
        }
    }
}

async fn add(context: &Context, args: &PortAddArgs) -> Result<u8, Failure> {
    let maps = match &args.file {
        Some(file) => from_json::<PortMapsCreate>(file)?.into_vec(),
        None => {
            if args.vm.is_none() && args.address.is_none() {
                let why = "say where they lead: --vm VM or --address ADDRESS";
                return Err(Failure::usage(why.to_owned()));
            }
            args.maps.iter().map(|map| complete(map, args)).collect()
        }
    };
    let made = context.client().await?.create_ports(maps).await?.items;
    context.result(&made, || {
        // Of a thousand nobody reads a line each.
        const SHOWN: usize = 20;
        if context.globals.quiet {
            return made.iter().map(|map| format!("{}\n", map.id)).collect();
        }
        let mut text: String = made
            .iter()
            .take(SHOWN)
            .map(|map| match &map.error {
                None => format!("{} leads to {}\n", map.name, target(map)),
                Some(why) => format!("{} does not lead to {} yet: {why}\n", map.name, target(map)),
            })
            .collect();
        if made.len() > SHOWN {
            text.push_str(&format!("and {} more\n", made.len() - SHOWN));
        }
        text
    })?;
    Ok(0)
}

fn complete(map: &PortMapCreate, args: &PortAddArgs) -> PortMapCreate {
    PortMapCreate {
        vm: args.vm.clone(),
        target_address: args.address,
        interface: args.interface.clone(),
        masquerade: args.masquerade,
        ..map.clone()
    }
}

async fn list(context: &Context, vm: Option<&str>) -> Result<u8, Failure> {
    let mut maps = context.client().await?.ports().await?.items;
    if let Some(vm) = vm {
        maps.retain(|map| {
            map.vm.as_ref().is_some_and(|name| name.as_str() == vm)
                || map.vm_id.is_some_and(|id| id.to_string() == vm)
        });
    }
    context.result(&maps, || table(&maps))?;
    Ok(0)
}

fn table(maps: &[PortMap]) -> String {
    let mut table = Table::new(["ID", "NAME", "LEADS TO", "ADDRESSES"]);
    for map in maps {
        let now: Vec<String> = map.targets.iter().map(ToString::to_string).collect();
        let now = match &map.error {
            Some(why) => format!("none: {why}"),
            None if now.is_empty() => "none yet".to_owned(),
            None => now.join(", "),
        };
        table.push([map.id.to_string(), map.name.clone(), target(map), now]);
    }
    table.render()
}

/// `web:80`, or `10.0.0.7:80`.
fn target(map: &PortMap) -> String {
    let host = match (&map.vm, map.vm_id, map.target_address) {
        (Some(name), ..) => name.to_string(),
        (None, Some(id), _) => id.to_string(),
        (None, None, Some(std::net::IpAddr::V6(address))) => format!("[{address}]"),
        (None, None, Some(address)) => address.to_string(),
        (None, None, None) => "nowhere".to_owned(),
    };
    format!("{host}:{}", map.target_port)
}

async fn delete(context: &Context, names: &[String]) -> Result<u8, Failure> {
    let client = context.client().await?;
    let all = client.ports().await?.items;
    let mut deleted = Vec::new();
    let mut failed: Option<Failure> = None;
    for name in names {
        let wanted = if name.contains('/') { name.clone() } else { format!("{name}/tcp") };
        let found = all.iter().find(|map| map.id.to_string() == *name || map.name == wanted);
        // The others are not spared by one; what was first is said.
        let done = match found {
            Some(map) => client.delete_port(&map.id.to_string()).await.map_err(Failure::from),
            None => Err(Failure::new(format!(
                "there is no port map {name}; `inn port list` shows those there are"
            ))),
        };
        match done {
            Ok(map) => deleted.push(map),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    context.result(&deleted, || {
        deleted.iter().map(|map| format!("{} leads nowhere any more\n", map.name)).collect()
    })?;
    failed.map_or(Ok(0), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_where_each_leads() {
        let map: PortMap = serde_json::from_value(serde_json::json!({
            "id": "0102030405060708", "name": "8080/tcp", "protocol": "tcp", "hostPort": 8080,
            "vm": "web", "vmId": "0102030405", "targetPort": 80, "masquerade": false,
            "targets": ["10.0.0.2", "fd00::2"],
        }))
        .unwrap();
        let row = table(std::slice::from_ref(&map));
        let row = row.lines().nth(1).unwrap();
        for part in ["0102030405060708", "8080/tcp", "web:80", "10.0.0.2, fd00::2"] {
            assert!(row.contains(part), "{part}: {row}");
        }
        let nowhere = PortMap { targets: vec![], ..map };
        assert!(table(&[nowhere]).contains("none yet"));
    }
}
