//! `inn snapshot`, `inn vm snapshot`, `inn vm fork` and `inn vm receipt`.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use inn_client::api::{
    ForkRequest, OperationState, ResumeReceipt, ResumeStep, SignedReceipt, Snapshot,
    SnapshotCreate, SnapshotImport, Vm,
};
use inn_client::{Client, ClientError};
use inn_units::{SnapshotName, VmName};
use jiff::Timestamp;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::json;

use crate::args::{ForkArgs, ReceiptArgs, RestoreArgs, SnapshotArgs, SnapshotCommand};
use crate::context::Context;
use crate::failure::{Failure, harmless};
use crate::image::follow;
use crate::lifecycle::settle;
use crate::pipe::{Passing, StreamReader};
use crate::progress::{Meter, Spinner};
use crate::signals::Interrupts;
use crate::table::Table;
use crate::transfer::blocking;
use crate::view::{age, bytes};

pub(crate) async fn command(context: &Context, command: &SnapshotCommand) -> Result<u8, Failure> {
    let client = context.client().await?;
    match command {
        SnapshotCommand::List => {
            let all = client.snapshots().await?.items;
            context.result(&all, || table(&all, Timestamp::now()))?;
        }
        SnapshotCommand::Show { snapshots } => {
            let mut shown = Vec::with_capacity(snapshots.len());
            for name in snapshots {
                shown.push(client.snapshot(name).await?);
            }
            context.result(&shown, || {
                let blocks: Vec<String> =
                    shown.iter().map(|snapshot| block(snapshot, Timestamp::now())).collect();
                blocks.join("\n")
            })?;
        }
        SnapshotCommand::Restore(args) => return restore(context, &client, args).await,
        SnapshotCommand::Export { snapshot, file } => {
            return export(context, &client, (snapshot, file)).await;
        }
        SnapshotCommand::Import { file, name } => {
            return import(context, &client, file, name.clone()).await;
        }
        SnapshotCommand::Delete { snapshots } => {
            for name in snapshots {
                client.delete_snapshot(name).await?;
                if !context.json() && !context.globals.quiet {
                    crate::context::print(format!("{name} deleted\n").as_bytes())?;
                }
            }
            if context.json() {
                context.result(snapshots, String::new)?;
            }
        }
    }
    Ok(0)
}

pub(crate) async fn snapshot(context: &Context, args: &SnapshotArgs) -> Result<u8, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let client = context.client().await?;
    let create = SnapshotCreate { name: args.name.clone() };
    let operation = client.snapshot_vm(&args.vm, &create).await?;
    let mut meter = Meter::start(context, "saving the VM");
    let show = &mut |_: &inn_client::api::Progress| {};
    let operation = follow(&client, operation, &mut interrupts, "snapshot", show).await?;
    meter.clear();
    match (operation.state, operation.problem) {
        (OperationState::Succeeded, _) => {}
        (_, Some(problem)) => return Err(ClientError::from(problem).into()),
        (_, None) => return Err(Failure::new(format!("no snapshot was taken of {}", args.vm))),
    }
    let id = operation.result.unwrap_or_default();
    let result = json!({ "id": id, "name": args.name, "vm": args.vm });
    context.result(&result, || format!("{} {id}\n", args.name))?;
    Ok(0)
}

/// What fails or is interrupted leaves nothing under the file's name.
async fn export(
    context: &Context,
    client: &Client,
    (snapshot, file): (&str, &Path),
) -> Result<u8, Failure> {
    let shown = file.display().to_string();
    if file.exists() {
        return Err(Failure::new(format!("{shown} is there already; name another file")));
    }
    let stream = client.export_snapshot(snapshot).await?;
    let mut spinner = Spinner::start(context, format!("exporting {snapshot}"));
    let mut reader = StreamReader::new(stream, Passing::default());
    let (target, failed) = (file.to_owned(), format!("cannot export {snapshot}"));
    blocking(move || {
        let beside = target.parent().filter(|dir| !dir.as_os_str().is_empty());
        let mut write = || -> io::Result<()> {
            let mut fresh = tempfile::NamedTempFile::new_in(beside.unwrap_or(Path::new(".")))?;
            io::copy(&mut reader, &mut fresh)?;
            fresh.as_file().sync_all()?;
            fresh.persist_noclobber(&target)?;
            Ok(())
        };
        write().map_err(|error| Failure::because(failed, &error))
    })
    .await?;
    spinner.clear();
    context.result(&json!({ "snapshot": snapshot, "path": file }), || format!("{shown}\n"))?;
    Ok(0)
}

async fn import(
    context: &Context,
    client: &Client,
    file: &Path,
    name: Option<SnapshotName>,
) -> Result<u8, Failure> {
    let shown = file.display();
    let path = std::path::absolute(file)
        .map_err(|e| Failure::because(format!("cannot tell where {shown} is"), &e))?;
    let mut interrupts = Interrupts::listen()?;
    let request = SnapshotImport { path: path.display().to_string(), name };
    let operation = client.import_snapshot(&request).await?;
    let mut meter = Meter::start(context, "taking the snapshot in");
    let show = &mut |_: &inn_client::api::Progress| {};
    let operation = follow(client, operation, &mut interrupts, "import", show).await?;
    meter.clear();
    match (operation.state, operation.problem) {
        (OperationState::Succeeded, _) => {}
        (_, Some(problem)) => return Err(ClientError::from(problem).into()),
        (_, None) => return Err(Failure::new(format!("{shown} was not taken in"))),
    }
    let id = operation.result.unwrap_or_default();
    let taken = client.snapshot(&id).await?;
    context.result(&taken, || format!("{} {id}\n", taken.name))?;
    Ok(0)
}

async fn restore(context: &Context, client: &Client, args: &RestoreArgs) -> Result<u8, Failure> {
    let mut spinner = Spinner::start(context, format!("restoring {}", args.snapshot));
    let made = begin_from(client, &args.snapshot, args.name.clone(), false).await?;
    let vm = settle(client, made).await?;
    spinner.clear();
    context.result(&vm, || format!("{}\n", vm.name))?;
    Ok(0)
}

/// Makes one VM that goes on from a snapshot, and which somebody leases or not.
pub(crate) async fn begin_from(
    client: &Client,
    snapshot: &str,
    name: Option<VmName>,
    lease: bool,
) -> Result<Vm, Failure> {
    let names = name.into_iter().collect();
    let fork = ForkRequest { names, lease, ..ForkRequest::default() };
    let made = client.fork_snapshot(snapshot, &fork).await?.items;
    made.into_iter().next().ok_or_else(|| Failure::new(format!("no VM was made of {snapshot}")))
}

pub(crate) async fn fork(context: &Context, args: &ForkArgs) -> Result<u8, Failure> {
    let client = context.client().await?;
    let fork = ForkRequest {
        count: Some(args.count),
        name_prefix: args.name_prefix.clone(),
        ..ForkRequest::default()
    };
    let mut spinner = Spinner::start(context, format!("forking {} VMs", args.count));
    let made = match (&args.vm, &args.snapshot) {
        (_, Some(snapshot)) => client.fork_snapshot(snapshot, &fork).await?,
        (Some(vm), None) => client.fork_vm(vm, &fork).await?,
        (None, None) => return Err(Failure::usage("name a VM, or a snapshot by --snapshot")),
    };
    let vms = all_up(&client, made.items).await?;
    spinner.clear();
    context.result(&vms, || vms.iter().map(|vm| format!("{}\n", vm.name)).collect())?;
    Ok(0)
}

async fn all_up(client: &Client, made: Vec<Vm>) -> Result<Vec<Vm>, Failure> {
    let mut vms = Vec::with_capacity(made.len());
    for vm in made {
        vms.push(settle(client, vm).await?);
    }
    Ok(vms)
}

pub(crate) async fn receipt(context: &Context, args: &ReceiptArgs) -> Result<u8, Failure> {
    let signed = context.client().await?.receipt(&args.vm).await?;
    if args.verify {
        verify(&signed, args.key.as_deref())
            .and_then(|()| is_of(&signed, &args.vm))
            .map_err(|why| Failure::new(format!("the receipt of {} {why}", args.vm)))?;
    }
    context.result(&signed, || lines(&signed, args.verify))?;
    Ok(0)
}

fn verify(signed: &SignedReceipt, known: Option<&str>) -> Result<(), String> {
    if known.is_some_and(|known| !known.eq_ignore_ascii_case(&signed.public_key)) {
        return Err(format!("is signed by another key, {}", signed.public_key));
    }
    if signed.algorithm != "ed25519" {
        return Err(format!("is signed by {}, which this version does not know", signed.algorithm));
    }
    let unreadable = || "has a signature that cannot be read".to_owned();
    let key = unhex(&signed.public_key).ok_or_else(unreadable)?;
    let signature = unhex(&signed.signature).ok_or_else(unreadable)?;
    UnparsedPublicKey::new(&ED25519, key)
        .verify(signed.statement.as_bytes(), &signature)
        .map_err(|_| "is not what was signed".to_owned())?;
    // What is shown stands beside what was signed.
    match serde_json::from_str::<ResumeReceipt>(&signed.statement) {
        Ok(stated) if stated == signed.receipt => Ok(()),
        _ => Err("says other than what was signed".to_owned()),
    }
}

/// Whether it says that it is of the VM that it was asked for, by name or id.
fn is_of(signed: &SignedReceipt, vm: &str) -> Result<(), String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Of {
        vm: String,
        #[serde(default)]
        vm_id: String,
    }
    match serde_json::from_str::<Of>(&signed.statement) {
        Ok(of) if of.vm == vm || of.vm_id == vm => Ok(()),
        Ok(of) => Err(format!("is another VM's, {} ({})", of.vm, of.vm_id)),
        Err(_) => Err("does not say of which VM it is".to_owned()),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(pair).collect()
}

/// What was done and skipped, and why, as a table.
pub(crate) fn steps(steps: &[ResumeStep]) -> String {
    let mut table = Table::new(["STEP", "RESULT", "TOOK"]);
    for step in steps {
        let result = match &step.why {
            Some(why) => format!("{}: {why}", step.result),
            None => step.result.clone(),
        };
        let took = match step.took_us {
            0 => "-".to_owned(),
            us => format!("{}.{:03} ms", us / 1000, us % 1000),
        };
        table.push([harmless(&step.name), harmless(&result), took]);
    }
    table.render()
}

fn lines(signed: &SignedReceipt, verified: bool) -> String {
    let receipt = &signed.receipt;
    let good = if verified { " (good)" } else { "" };
    // Writing to a String cannot fail.
    let mut text = String::new();
    let _ = writeln!(text, "begun from {}, confirmed {}", receipt.origin, receipt.confirmed_at);
    text.push_str(&steps(&receipt.steps));
    let lag = inn_units::format_duration(std::time::Duration::from_micros(receipt.clock_lag_us));
    let _ = writeln!(text, "its clock is behind by {lag} at the most");
    let _ = writeln!(text, "signed by {}{good}", signed.public_key);
    text
}

fn table(all: &[Snapshot], now: Timestamp) -> String {
    let mut table = Table::new(["NAME", "ID", "VM", "MEMORY", "STORED", "MADE BY", "AGE"]);
    for snapshot in all {
        table.push([
            snapshot.name.to_string(),
            snapshot.id.to_string(),
            snapshot.vm.to_string(),
            snapshot.memory_bytes.to_string(),
            bytes(snapshot.stored_bytes.get()),
            harmless(&format!("{} {}", snapshot.made_by.runtime, snapshot.made_by.version)),
            age(snapshot.created_at, now),
        ]);
    }
    table.render()
}

fn block(snapshot: &Snapshot, now: Timestamp) -> String {
    let maker = &snapshot.made_by;
    let mut lines = vec![
        ("name", snapshot.name.to_string()),
        ("id", snapshot.id.to_string()),
        ("vm", format!("{} ({})", snapshot.vm, snapshot.vm_id)),
    ];
    if let Some(image) = &snapshot.image {
        lines.push(("image", format!("{} ({})", image.name, image.digest)));
    }
    lines.push(("cpus", snapshot.vcpus.to_string()));
    lines.push(("memory", snapshot.memory_bytes.to_string()));
    lines.push(("disk", snapshot.disk_bytes.to_string()));
    lines.push(("stored", bytes(snapshot.stored_bytes.get())));
    lines.push(("made by", format!("{} {} on {}", maker.runtime, maker.version, maker.arch)));
    lines.push(("machine", format!("{}, CPU {}, {}", maker.machine, maker.cpu, maker.accelerator)));
    lines.push(("devices", maker.devices.join(", ")));
    lines.extend(maker.kernel.iter().map(|kernel| ("kernel", kernel.clone())));
    for part in &snapshot.parts {
        lines.push(("part", format!("{}: {}, sha256 {}", part.name, part.bytes, part.sha256)));
    }
    let age = age(snapshot.created_at, now);
    lines.push(("created", format!("{age} ago ({})", snapshot.created_at)));
    let mut text = String::new();
    for (key, value) in lines {
        let _ = writeln!(text, "{key:<15} {}", harmless(&value));
    }
    text
}

#[cfg(test)]
mod tests {
    use inn_client::api::ResumeReceipt;
    use ring::rand::SystemRandom;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn only_what_was_signed_by_that_key_is_good() {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
        let receipt = ResumeReceipt {
            origin: "golden".into(),
            snapshot: "0123456789abcdef".parse().unwrap(),
            boot_session: "ab".into(),
            confirmed_at: Timestamp::UNIX_EPOCH,
            took_us: 1,
            clock_lag_us: 1,
            steps: Vec::new(),
        };
        // What is signed says more, as of which VM it is.
        let mut stated = serde_json::to_value(&receipt).unwrap();
        stated["vm"] = json!("web");
        let statement = stated.to_string();
        let signed = SignedReceipt {
            receipt,
            signature: hex(key.sign(statement.as_bytes()).as_ref()),
            statement,
            algorithm: "ed25519".into(),
            public_key: hex(key.public_key().as_ref()),
        };
        verify(&signed, None).unwrap();
        is_of(&signed, "web").unwrap();
        assert!(is_of(&signed, "db").unwrap_err().contains("another VM's, web"));
        verify(&signed, Some(&signed.public_key.to_uppercase())).unwrap();
        assert!(verify(&signed, Some("00")).unwrap_err().contains("another key"));
        let forged = SignedReceipt { statement: "{\"vm\":\"db\"}".into(), ..signed.clone() };
        assert!(verify(&forged, None).unwrap_err().contains("not what was signed"));
        let mut dressed = signed.clone();
        dressed.receipt.origin = "another".into();
        assert!(verify(&dressed, None).unwrap_err().contains("other than what was signed"));
        let garbled = SignedReceipt { signature: "xyz".into(), ..signed };
        assert!(verify(&garbled, None).unwrap_err().contains("cannot be read"));
    }
}
