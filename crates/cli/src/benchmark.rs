//! `inn node benchmark`.

use std::fmt::Write;

use inn_client::api::{
    Benchmark, BenchmarkCreate, BenchmarkDirection, BenchmarkPattern, OperationState, Progress,
};
use inn_units::Bytes;

use crate::args::BenchmarkArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::image::follow;
use crate::progress::Spinner;
use crate::signals::Interrupts;
use crate::table::Table;

pub(crate) async fn benchmark(context: &Context, args: &BenchmarkArgs) -> Result<u8, Failure> {
    let client = context.client().await?;
    if !args.last {
        let asked = BenchmarkCreate {
            size_bytes: Some(args.size.get()),
            pass_millis: Some(u32::try_from(args.time.as_millis()).unwrap_or(u32::MAX)),
        };
        let mut interrupts = Interrupts::listen()?;
        let operation = client.benchmark_node(&asked).await?;
        let mut spinner = Spinner::start(context, "measuring".to_owned());
        let show = &mut |progress: &Progress| spinner.say(progress.step.clone());
        let operation = follow(&client, operation, &mut interrupts, "benchmark", show).await?;
        spinner.clear();
        match (operation.state, operation.problem) {
            (OperationState::Succeeded, _) => {}
            (_, Some(problem)) => return Err(inn_client::ClientError::from(problem).into()),
            (_, None) => return Err(Failure::new("the benchmark did not end well")),
        }
    }
    let report = client.benchmark().await?;
    context.result(&report, || describe(&report))?;
    Ok(0)
}

fn describe(report: &Benchmark) -> String {
    let mut table = Table::new([
        "ACCESS",
        "BLOCK",
        "DEPTH",
        "RATE",
        "REQUESTS/S",
        "P50",
        "P95",
        "P99",
        "P99.9",
    ])
    .right(1..9);
    for pass in &report.passes {
        let pattern = match pass.pattern {
            BenchmarkPattern::Sequential => "sequential",
            BenchmarkPattern::Random => "random",
        };
        let direction = match pass.direction {
            BenchmarkDirection::Read => "read",
            BenchmarkDirection::Write => "write",
        };
        let latency = pass.latency;
        table.push([
            format!("{pattern} {direction}"),
            Bytes(pass.block_bytes).to_string(),
            pass.depth.to_string(),
            format!("{}/s", Bytes(pass.bytes_per_second)),
            pass.requests_per_second.to_string(),
            micros(latency.p50),
            micros(latency.p95),
            micros(latency.p99),
            micros(latency.p999),
        ]);
    }
    let mut text = table.render();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "\n{}/s of SHA-256, {}/s copied in memory, each by one thread",
        Bytes(report.sha256_rate),
        Bytes(report.copy_rate)
    );
    let _ = writeln!(
        text,
        "at {}, by {} on {} below {}, {} written",
        report.at,
        report.engine,
        Bytes(report.size_bytes),
        report.directory,
        Bytes(report.written_bytes)
    );
    if let Some(reason) = &report.reason {
        let _ = writeln!(text, "{reason}");
    }
    text
}

fn micros(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} µs"),
        _ => format!("{} ms", n / 1000),
    }
}
