//! `inn vm commit`: an image of a VM's disk.

use inn_client::api::{OperationState, VmCommit};
use serde_json::json;

use crate::args::CommitArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::image::follow;
use crate::progress::Meter;
use crate::signals::Interrupts;

pub(crate) async fn commit(context: &Context, args: &CommitArgs) -> Result<u8, Failure> {
    let request = VmCommit {
        name: args.name.clone(),
        command: (!args.command.is_empty()).then(|| args.command.clone()),
        env: args.env.iter().cloned().collect(),
        labels: args.label.iter().cloned().collect(),
    };
    let mut interrupts = Interrupts::listen()?;
    let client = context.client().await?;
    let operation = client.commit_vm(&args.vm, &request).await?;
    let mut meter = Meter::start(context, "reading the disk");
    let show = &mut |progress: &inn_client::api::Progress| {
        meter.update(&progress.step, progress.done_bytes, progress.total_bytes);
    };
    let operation = follow(&client, operation, &mut interrupts, "commit", show).await?;
    meter.clear();
    match (operation.state, operation.problem) {
        (OperationState::Succeeded, _) => {}
        (_, Some(problem)) => return Err(inn_client::ClientError::from(problem).into()),
        (_, None) => return Err(Failure::new(format!("no image was made of {}", args.vm))),
    }
    let id = operation.result.unwrap_or_default();
    let result = json!({ "id": id, "name": args.name, "vm": args.vm });
    context.result(&result, || format!("{} {id}\n", args.name))?;
    Ok(0)
}
