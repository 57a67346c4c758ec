//! `inn doctor`: what features need, and whether it is here. An agent that runs
//! is asked; where none does, what it would see is looked at here, and no agent
//! is started for it.

use std::fmt::Write;
use std::time::Duration;

use inn_client::Client;
use inn_client::api::{Examination, Finding, FindingState};
use inn_facts::Root;
use inn_facts::doctor::Run;
use inn_host::process::{Program, run_blocking};
use inn_node::{Config, ConfigSource};
use tokio::task::spawn_blocking;

use crate::args::DoctorArgs;
use crate::autostart;
use crate::context::Context;
use crate::failure::{FAILED, Failure};

/// For a module to load: its devices may be probed meanwhile.
const MENDING: Duration = Duration::from_secs(60);

pub(crate) async fn doctor(context: &Context, args: &DoctorArgs) -> Result<u8, Failure> {
    let client = autostart::running(context).await?;
    if args.fix && context.globals.host.is_some() {
        return Err(Failure::new(
            "--fix changes this host, and --host names another one; run it there",
        ));
    }
    let mut told = examine(client.as_ref()).await?;
    if args.fix {
        let mut changed = false;
        for finding in told.findings.iter().filter(|one| one.fix.is_some()) {
            changed |= mend(context, finding).await;
        }
        if changed {
            told = examine(client.as_ref()).await?;
        }
    }
    context.result(&told, || describe(&told, args.all))?;
    Ok(if told.healthy { 0 } else { FAILED })
}

async fn examine(client: Option<&Client>) -> Result<Examination, Failure> {
    match client {
        Some(client) => Ok(client.examine_node().await?),
        None => {
            let config = Config::load(&ConfigSource::default()).map_err(|e| Failure::of(&e))?;
            Ok(inn_node::examine_alone(&config).await)
        }
    }
}

/// Whether the host is another one for it.
async fn mend(context: &Context, finding: &Finding) -> bool {
    let Some(fix) = finding.fix.clone() else { return false };
    let mending = spawn_blocking(move || inn_facts::doctor::mend(&Root::host(), &Programs, &fix));
    match mending.await.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(done) => {
            if let Some(done) = &done {
                context.note(&format!("{}: {done}", finding.check));
            }
            done.is_some()
        }
        Err(why) => {
            context.note(&format!("{} is as it was: {why}", finding.check));
            false
        }
    }
}

struct Programs;

impl Run for Programs {
    fn run(&self, argv: &[&str]) -> Result<(), String> {
        let (program, arguments) = match argv {
            ["modprobe", arguments @ ..] => (Program::MODPROBE, arguments),
            ["groupadd", arguments @ ..] => (Program::GROUPADD, arguments),
            _ => return Err(format!("{} is no program that mends", argv.join(" "))),
        };
        run_blocking(program, arguments, MENDING).map(drop).map_err(|error| error.to_string())
    }
}

fn describe(told: &Examination, all: bool) -> String {
    let mut text = String::new();
    let shown = told.findings.iter().filter(|one| all || one.state != FindingState::Ok);
    for finding in shown {
        text.push_str(&paragraph(finding));
    }
    let count = |state| told.findings.iter().filter(|one| one.state == state).count();
    let (well, degraded, missing) =
        (count(FindingState::Ok), count(FindingState::Degraded), count(FindingState::Missing));
    if !text.is_empty() {
        text.push('\n');
    }
    let whose = match told.by_agent {
        true => "",
        false => " No agent runs: this is what one of yours would find.",
    };
    let verdict = match told.healthy {
        true => "VMs can run here.",
        false => "VMs cannot run here as they should.",
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{verdict} {well} ok, {degraded} degraded, {missing} missing.{whose}");
    if told.findings.iter().any(|one| one.fix.is_some() && one.state != FindingState::Ok) {
        text.push_str("`inn doctor --fix` does what is safe of it.\n");
    }
    text
}

fn paragraph(finding: &Finding) -> String {
    let state = match finding.state {
        FindingState::Ok => "ok",
        FindingState::Degraded => "degraded",
        FindingState::Missing => "missing",
    };
    let needed = if finding.needed && finding.state != FindingState::Ok { ", needed" } else { "" };
    let mut text = format!("{state:<9} {}{needed}: {}\n", finding.check, finding.found);
    if let Some(consequence) = &finding.consequence {
        let _ = writeln!(text, "{:9} so: {consequence}", "");
    }
    if let Some(command) = &finding.command {
        let _ = writeln!(text, "{:9} do: {command}", "");
    }
    if let Some(instruction) = &finding.instruction {
        let when = if finding.command.is_some() { "then" } else { "do" };
        let _ = writeln!(text, "{when:>12}: {instruction}");
    }
    text
}

#[cfg(test)]
mod tests {
    use inn_client::api::Fix;

    use super::*;

    fn finding(check: &str, state: FindingState) -> Finding {
        let is_ok = state == FindingState::Ok;
        Finding {
            check: check.into(),
            state,
            needed: true,
            found: "as it is".into(),
            consequence: (!is_ok).then(|| "less".into()),
            command: (!is_ok).then(|| "modprobe tun".into()),
            instruction: (!is_ok).then(|| "reboot".into()),
            fix: (!is_ok).then(|| Fix::LoadModule { module: "tun".into() }),
        }
    }

    #[test]
    fn what_is_well_is_shown_to_who_asks_for_all() {
        let told = Examination {
            at: jiff::Timestamp::UNIX_EPOCH,
            by_agent: false,
            healthy: false,
            findings: vec![
                finding("kvm", FindingState::Ok),
                finding("network.tun", FindingState::Missing),
            ],
        };
        let text = describe(&told, false);
        for words in [
            "missing   network.tun, needed: as it is\n          so: less\n          do: modprobe tun\n        then: reboot\n",
            "VMs cannot run here as they should. 1 ok, 0 degraded, 1 missing. No agent runs",
            "`inn doctor --fix`",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(!text.contains("kvm"), "{text}");
        assert!(describe(&told, true).contains("ok        kvm: as it is\n"));
    }
}
