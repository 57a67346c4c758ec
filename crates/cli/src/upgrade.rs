//! `inn agent upgrade`: asked for, and waited for.

use std::time::Duration;

use inn_client::api::{NodeInfo, Upgrade, UpgradeBegun};
use inn_client::{Client, ClientError};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::args::AgentArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::progress::Spinner;

/// For the agent to wind down and the next one to serve, with all its VMs.
const PATIENCE: Duration = Duration::from_secs(120);
const BETWEEN: Duration = Duration::from_millis(50);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Upgraded {
    program: String,
    from_version: String,
    to_version: String,
    pid: u32,
}

pub(crate) async fn upgrade(context: &Context, args: &AgentArgs) -> Result<u8, Failure> {
    let program = match &args.program {
        Some(path) => {
            let path = std::path::absolute(path)
                .map_err(|e| Failure::because("cannot tell the current directory", &e))?;
            Some(path.to_string_lossy().into_owned())
        }
        None => None,
    };
    let client = context.client().await?;
    let before = client.node().await?;
    let mut spinner = Spinner::start(context, "trying the new program");
    let begun = client.upgrade(&Upgrade { program, end_leased: args.end_leased }).await?;
    spinner.say("upgrading".to_owned());
    let after = next_life(&client, &before).await?;
    spinner.clear();
    let UpgradeBegun { program, from_version, .. } = begun;
    let upgraded = Upgraded { program, from_version, to_version: after.version, pid: after.pid };
    context.result(&upgraded, || {
        let Upgraded { program, from_version, to_version, pid } = &upgraded;
        format!("the agent (pid {pid}) is {program}, version {to_version} after {from_version}\n")
    })?;
    Ok(0)
}

/// The agent once it is another one than before.
async fn next_life(client: &Client, before: &NodeInfo) -> Result<NodeInfo, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let why = match client.node().await {
            Ok(node) if node.started_at != before.started_at => return Ok(node),
            Ok(_) => "the agent is still the one before".to_owned(),
            Err(error @ ClientError::Unreachable { .. }) => {
                return Err(Failure::because(
                    "the agent has ended in its upgrade: its log says why",
                    &error,
                ));
            }
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            let seconds = PATIENCE.as_secs();
            return Err(Failure::new(format!("no upgrade within {seconds} s: {why}")));
        }
        sleep(BETWEEN).await;
    }
}
