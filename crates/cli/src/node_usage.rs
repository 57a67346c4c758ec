//! `inn node usage`: what VMs have used, and whether the ledger says so.

use std::fmt::Write as _;
use std::path::Path;

use inn_client::api::{ByteSeconds, UsageCheck, UsageFinding, UsageReport, UsageRow};
use inn_node::metering::verify;
use inn_units::Bytes;

use crate::args::{OutputForm, UsageArgs, UsageCommand, VerifyUsageArgs};
use crate::context::{Context, print};
use crate::failure::{FAILED, Failure};
use crate::table::Table;

pub(crate) async fn usage(context: &Context, args: &UsageArgs) -> Result<u8, Failure> {
    if let Some(UsageCommand::Verify(args)) = &args.verify {
        return check(context, args).await;
    }
    let by = match args.by.as_str() {
        by @ ("vm" | "all") => by.to_owned(),
        by if by.starts_with("label:") => by.to_owned(),
        label => format!("label:{label}"),
    };
    let report = context.client().await?.usage(args.from, args.to, &by).await?;
    if context.globals.output == OutputForm::Csv {
        print(csv(&report).as_bytes())?;
    } else {
        context.result(&report, || table(&report))?;
    }
    Ok(0)
}

async fn check(context: &Context, args: &VerifyUsageArgs) -> Result<u8, Failure> {
    let check = match (&args.dir, &args.key) {
        (Some(dir), Some(key)) => check_copy(dir, key, args)?,
        (_, key) => {
            let head = args.head.as_ref().map(|head| format!("{}:{}", head.block, head.hash));
            let check = context.client().await?.verify_usage(head.as_deref()).await?;
            if key.as_ref().is_some_and(|key| !key.eq_ignore_ascii_case(&check.public_key)) {
                return Err(Failure::new(format!(
                    "the node signs with another key, {}",
                    check.public_key
                )));
            }
            check
        }
    };
    context.result(&check, || findings(&check))?;
    Ok(if check.ok { 0 } else { FAILED })
}

fn check_copy(dir: &Path, key: &str, args: &VerifyUsageArgs) -> Result<UsageCheck, Failure> {
    let key = key.to_ascii_lowercase();
    let check = verify(dir, &key, args.head.clone())
        .map_err(|error| Failure::because(format!("cannot read {}", dir.display()), &error))?
        .told(key);
    if check.blocks == 0 {
        return Err(Failure::new(format!("{} holds no ledger of usage", dir.display())));
    }
    Ok(check)
}

fn findings(check: &UsageCheck) -> String {
    let mut text = String::new();
    for UsageFinding { file, line, what } in &check.findings {
        let place = if file.is_empty() { String::new() } else { format!("{file}:{line}: ") };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{place}{what}");
    }
    let told = u64::try_from(check.findings.len()).unwrap_or(u64::MAX);
    if check.found > told {
        let _ = writeln!(text, "and {} more", check.found - told);
    }
    let verdict = if check.ok { "whole" } else { "NOT whole" };
    let UsageCheck { blocks, entries, vms, head, public_key, .. } = check;
    let _ = writeln!(
        text,
        "{verdict}: {blocks} blocks, {entries} entries of {vms} VMs, signed by {public_key}"
    );
    let _ = writeln!(text, "head {}:{}", head.block, head.hash);
    text
}

fn table(report: &UsageReport) -> String {
    let what = if report.by == "vm" { "VM" } else { "KEY" };
    let mut table = Table::new([
        what, "VMS", "VCPU-H", "USED", "MEMORY-H", "USED", "DISK-H", "USED", "SENT", "RECEIVED",
    ])
    .right(1..10);
    for row in &report.items {
        let memory = hours(row.memory_byte_seconds);
        let disk = hours(row.disk_byte_seconds);
        table.push([
            title(row, &report.by),
            row.vms.to_string(),
            format!("{:.2}", row.vcpu_seconds.allotted / 3600.0),
            format!("{:.2}", row.vcpu_seconds.used / 3600.0),
            memory.0,
            memory.1,
            disk.0,
            disk.1,
            Bytes(row.sent_bytes).to_string(),
            Bytes(row.received_bytes).to_string(),
        ]);
    }
    table.render()
}

fn title(row: &UsageRow, by: &str) -> String {
    match (&row.name, &row.key) {
        (Some(name), _) => name.clone(),
        (None, Some(key)) => key.clone(),
        (None, None) if by == "all" => "all".to_owned(),
        (None, None) => "-".to_owned(),
    }
}

/// Byte-hours, rounded down.
fn hours(areas: ByteSeconds) -> (String, String) {
    let of = |seconds: u64| format!("{}h", Bytes(seconds / 3600));
    (of(areas.allotted), of(areas.used))
}

/// RFC 4180, with a header.
fn csv(report: &UsageReport) -> String {
    let mut text = "key,name,vms,vcpuSecondsAllotted,vcpuSecondsUsed,memoryByteSecondsAllotted,\
                    memoryByteSecondsUsed,diskByteSecondsAllotted,diskByteSecondsUsed,gpuSeconds,\
                    sentBytes,receivedBytes\r\n"
        .to_owned();
    for row in &report.items {
        let UsageRow {
            key,
            name,
            vms,
            vcpu_seconds: cpu,
            memory_byte_seconds: memory,
            disk_byte_seconds: disk,
            gpu_seconds,
            sent_bytes,
            received_bytes,
        } = row;
        let field = |text: &Option<String>| quoted(text.as_deref().unwrap_or_default());
        let _ = write!(
            text,
            "{},{},{vms},{:.6},{:.6},{},{},{},{},{gpu_seconds:.6},{sent_bytes},{received_bytes}\r\n",
            field(key),
            field(name),
            cpu.allotted,
            cpu.used,
            memory.allotted,
            memory.used,
            disk.allotted,
            disk.used,
        );
    }
    text
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use inn_client::api::VcpuSeconds;

    use super::*;

    #[test]
    fn rows_are_fields_of_a_spreadsheet() {
        let areas = ByteSeconds { allotted: 7200 << 20, used: 3 };
        let row = UsageRow {
            key: Some("a \"b\", c".to_owned()),
            name: None,
            vms: 2,
            vcpu_seconds: VcpuSeconds { allotted: 1.5, used: 0.000_001 },
            memory_byte_seconds: areas,
            disk_byte_seconds: areas,
            gpu_seconds: 0.0,
            sent_bytes: 4,
            received_bytes: 5,
        };
        let epoch = jiff::Timestamp::UNIX_EPOCH;
        let by = "label:team".to_owned();
        let report = UsageReport { from: epoch, to: epoch, by, items: vec![row] };
        let csv = csv(&report);
        let line = csv.lines().nth(1).unwrap();
        let expected =
            "\"a \"\"b\"\", c\",,2,1.500000,0.000001,7549747200,3,7549747200,3,0.000000,4,5";
        assert_eq!(line, expected);
        assert_eq!(csv.lines().next().unwrap().split(',').count(), 12);
        assert!(
            table(&report).contains("2.0MiBh") || table(&report).contains("2MiBh"),
            "{}",
            table(&report)
        );
    }
}
