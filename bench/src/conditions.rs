use std::fs;

use anyhow::Context;
use serde::Serialize;

use crate::Options;
use crate::program::{command, output};

/// What the figures depend on.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Conditions {
    /// RFC 3339, UTC.
    pub(crate) taken: String,
    cpu: String,
    cpus: usize,
    /// One minute's load average before the first measurement.
    load: String,
    host_kernel: String,
    qemu: String,
    inn: String,
    accelerator: &'static str,
    rounds: usize,
}

impl Conditions {
    pub(crate) fn gather(options: &Options) -> anyhow::Result<Self> {
        let read =
            |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let cpuinfo = read("/proc/cpuinfo")?;
        let model =
            cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
        Ok(Self {
            taken: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            cpu: model.map_or("unknown", |(_, name)| name).to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            load: read("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned(),
            host_kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            qemu: first_line(output(command("qemu-system-x86_64").arg("--version"))?),
            inn: first_line(output(command(&options.inn).arg("--version"))?),
            accelerator: options.accel.name(),
            rounds: options.rounds,
        })
    }

    pub(crate) fn sentence(&self) -> String {
        format!(
            "{} on {} CPUs ({}), Linux {}, {}, accelerator {}, load {} at the beginning, {}.",
            self.inn,
            self.cpus,
            self.cpu,
            self.host_kernel,
            self.qemu,
            self.accelerator,
            self.load,
            self.taken
        )
    }
}
