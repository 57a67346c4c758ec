//! `inn doctor`: what features need, and whether it is here. An agent that runs
//! is asked; where none does, what it would see is looked at here, and no agent
//! is started for it.

use std::fmt::Write;
use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::time::Duration;

use inn_client::Client;
use inn_client::api::{Examination, Finding, FindingState, Fix};
use inn_host::process::{Program, run};
use inn_node::{Config, ConfigSource};

use crate::args::DoctorArgs;
use crate::autostart;
use crate::context::Context;
use crate::failure::{FAILED, Failure};

/// For a module to load: its devices may be probed meanwhile.
const LOADING: Duration = Duration::from_secs(60);

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
    let Some(fix) = &finding.fix else { return false };
    let done = match fix {
        Fix::LoadModule { module } => run(Program::MODPROBE, [module], LOADING)
            .await
            .map(|_| format!("loaded the module {module}"))
            .map_err(|error| error.to_string()),
        Fix::MakeDirectory { path } => DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map(|()| format!("made {path}"))
            .map_err(|error| format!("cannot make {path}: {error}")),
        Fix::CloseDirectory { path } => close(path)
            .map(|()| format!("closed {path} to others"))
            .map_err(|error| format!("cannot close {path}: {error}")),
    };
    match done {
        Ok(done) => {
            context.note(&done);
            true
        }
        Err(why) => {
            context.note(&format!("{} is as it was: {why}", finding.check));
            false
        }
    }
}

fn close(path: &str) -> std::io::Result<()> {
    let mode = std::fs::metadata(path)?.permissions().mode() & 0o770;
    std::fs::set_permissions(path, Permissions::from_mode(mode))
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
    text
}

#[cfg(test)]
mod tests {
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
            "missing   network.tun, needed: as it is\n          so: less\n          do: modprobe tun\n",
            "VMs cannot run here as they should. 1 ok, 0 degraded, 1 missing. No agent runs",
            "`inn doctor --fix`",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(!text.contains("kvm"), "{text}");
        assert!(describe(&told, true).contains("ok        kvm: as it is\n"));
    }

    #[test]
    fn a_directory_is_closed_to_others_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        close(path).unwrap();
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o750);
    }
}
