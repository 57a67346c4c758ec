use inn_client::api::{Phase, Vm};
use jiff::Timestamp;

use crate::args::ListArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::table::Table;
use crate::view::{age, is_active, is_asleep, source, status};

/// `inn vm list`.
pub(crate) async fn list(context: &Context, args: &ListArgs) -> Result<u8, Failure> {
    let client = context.client().await?;
    let mut vms = client.vms().await?.items;
    let status: Option<Phase> = args.status.map(Into::into);
    vms.retain(|vm| match status {
        Some(status) => vm.phase == status,
        None => args.all || is_active(vm.phase) || is_asleep(vm),
    });
    vms.sort_by(|a, b| a.name.cmp(&b.name));
    context.result(&vms, || table(&vms, Timestamp::now()))?;
    Ok(0)
}

fn table(vms: &[Vm], now: Timestamp) -> String {
    let mut table =
        Table::new(["ID", "NAME", "IMAGE", "STATUS", "CPUS", "MEMORY", "LANGUAGE", "AGE", "TTL"]);
    for vm in vms {
        table.push([
            vm.id.to_string(),
            vm.name.to_string(),
            source(vm),
            status(vm),
            vm.vcpus.to_string(),
            vm.memory_bytes.to_string(),
            vm.language.clone().unwrap_or_else(|| "-".to_owned()),
            age(vm.created_at, now),
            vm.ttl.as_ref().map_or_else(
                || "-".to_owned(),
                |ttl| {
                    age(
                        now,
                        now.saturating_add(std::time::Duration::from_secs(ttl.seconds_left))
                            .unwrap_or(now),
                    )
                },
            ),
        ]);
    }
    table.render()
}
