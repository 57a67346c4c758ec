//! `inn vm execs` and `inn vm kill`: the commands in a VM, by their ids.

use inn_client::api::ExecInfo;
use jiff::Timestamp;
use serde::Serialize;

use crate::args::{ExecsArgs, KillArgs};
use crate::context::Context;
use crate::failure::{Failure, harmless};
use crate::table::Table;
use crate::view::{age, bytes};

/// Characters of a command in the table.
const LONGEST_COMMAND: usize = 60;

pub(crate) async fn execs(context: &Context, args: &ExecsArgs) -> Result<u8, Failure> {
    let client = context.client().await?;
    let execs = client.execs(args.vm.name()).await?.items;
    context.result(&execs, || table(&execs, Timestamp::now()))?;
    Ok(0)
}

fn table(execs: &[ExecInfo], now: Timestamp) -> String {
    let mut table = Table::new(["ID", "STATUS", "STARTED", "RESTARTS", "OUTPUT", "COMMAND"]);
    for exec in execs {
        let started = exec.started_at.map(|at| format!("{} ago", age(at, now)));
        table.push([
            exec.id.to_string(),
            status(exec),
            started.unwrap_or_else(|| "-".to_owned()),
            exec.restarts.to_string(),
            bytes(exec.output_end),
            command(exec),
        ]);
    }
    table.render()
}

/// `running`, `exited 3`, `SIGTERM`, `timed out`.
fn status(exec: &ExecInfo) -> String {
    let Some(ended) = &exec.ended else {
        return if exec.running { "running" } else { "waiting" }.to_owned();
    };
    match &ended.signal {
        _ if ended.timed_out => "timed out".to_owned(),
        Some(signal) => harmless(signal),
        None => format!("exited {}", ended.exit_code),
    }
}

fn command(exec: &ExecInfo) -> String {
    let line = harmless(&exec.command.join(" ")).replace('\t', " ");
    let mut shown: String = line.chars().take(LONGEST_COMMAND).collect();
    if shown.len() < line.len() {
        shown.push('…');
    }
    match exec.workload {
        true => format!("{shown} (the VM's workload)"),
        false => shown,
    }
}

#[derive(Debug, Serialize)]
struct Signalled<'a> {
    id: String,
    name: String,
    signal: &'a str,
}

pub(crate) async fn kill(context: &Context, args: &KillArgs) -> Result<u8, Failure> {
    let client = context.client().await?;
    let id = args.exec.to_string();
    client.signal_exec(&args.vm, &id, &args.signal).await?;
    let signalled = Signalled { name: id.clone(), signal: &args.signal, id };
    context.result(&signalled, || format!("{} got {}\n", signalled.id, args.signal))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use inn_client::api::ExecEnded;

    fn exec() -> ExecInfo {
        ExecInfo {
            id: "0123456789abcdef".parse().unwrap(),
            name: "0123456789abcdef".into(),
            command: vec!["sleep".into(), "in\x1b[2Jfinity".into()],
            pid: 7,
            user: "root".into(),
            workload: false,
            detached: true,
            tty: false,
            running: true,
            started_at: Some(Timestamp::UNIX_EPOCH),
            restarts: 2,
            output_start: 0,
            output_end: 2048,
            ended: None,
        }
    }

    #[test]
    fn a_row_says_how_a_command_is() {
        let now = Timestamp::from_second(90).unwrap();
        assert_eq!(
            table(&[exec()], now),
            "ID                STATUS   STARTED  RESTARTS  OUTPUT  COMMAND\n\
             0123456789abcdef  running  1m ago   2         2KiB    sleep in[2Jfinity\n"
        );
        let ended = |exit_code, signal: Option<&str>, timed_out| {
            let ended = ExecEnded {
                exit_code,
                signal: signal.map(Into::into),
                timed_out,
                truncated_bytes: 0,
                took_ms: 1,
            };
            status(&ExecInfo { running: false, ended: Some(ended), ..exec() })
        };
        assert_eq!(ended(3, None, false), "exited 3");
        assert_eq!(ended(143, Some("SIGTERM"), false), "SIGTERM");
        assert_eq!(ended(137, Some("SIGKILL"), true), "timed out");
    }

    #[test]
    fn long_commands_are_cut() {
        let long = ExecInfo { command: vec!["x".repeat(500)], workload: true, ..exec() };
        assert_eq!(command(&long), format!("{}… (the VM's workload)", "x".repeat(60)));
    }
}
