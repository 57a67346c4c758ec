use futures_util::StreamExt;
use inn_client::LogRequest;

use crate::args::LogsArgs;
use crate::context::Context;
use crate::failure::Failure;

/// `inn vm logs`: the bytes as they are. Ctrl-C ends a followed log, and us.
pub(crate) async fn logs(context: &Context, args: &LogsArgs) -> Result<u8, Failure> {
    let vm = args.vm.name();
    let client = context.client().await?;
    let request = LogRequest {
        source: args.source.into(),
        tail: args.tail,
        since: args.since,
        follow: args.follow,
    };
    let mut stream = client.vm_logs(vm, request).await?;
    while let Some(part) = stream.next().await {
        crate::context::print(&part?)?;
    }
    Ok(0)
}
