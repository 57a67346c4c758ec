use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

use crate::conditions::Conditions;
use crate::sample::Samples;

/// One line of the table: what was measured, beside what it is held against.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) ours: Figure,
    /// The raw thing, where there is one.
    pub(crate) raw: Option<Figure>,
    pub(crate) target: &'static str,
    pub(crate) met: bool,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Figure {
    pub(crate) text: String,
    pub(crate) runs: usize,
    pub(crate) milliseconds: Samples,
}

impl Figure {
    pub(crate) fn median(samples: Samples) -> Self {
        Self {
            text: format!("{:.1} ms", samples.median()),
            runs: samples.len(),
            milliseconds: samples,
        }
    }

    pub(crate) fn spread(samples: Samples) -> Self {
        let text = format!("p50 {:.1} ms, p99 {:.1} ms", samples.median(), samples.quantile(0.99));
        Self { text, runs: samples.len(), milliseconds: samples }
    }

    /// The same for what takes less than a millisecond.
    pub(crate) fn spread_finely(samples: Samples) -> Self {
        let [median, slow] = [0.5, 0.99].map(|q| samples.quantile(q) * 1e3);
        let text = format!("p50 {median:.0} µs, p99 {slow:.0} µs");
        Self { text, runs: samples.len(), milliseconds: samples }
    }

    pub(crate) fn other(text: String, runs: usize) -> Self {
        Self { text, runs, milliseconds: Samples::default() }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    conditions: Conditions,
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new(conditions: Conditions) -> Self {
        Self { conditions, rows: Vec::new() }
    }

    pub(crate) fn push(&mut self, row: Row) {
        eprintln!("  {}: {}", row.what, row.ours.text);
        if let Some(raw) = &row.raw {
            eprintln!("  raw: {}", raw.text);
        }
        self.rows.push(row);
    }

    pub(crate) fn write(&self, dir: &Path) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join(format!("{}.json", self.conditions.taken.replace(':', "")));
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// As docs/benchmarks.md shows it.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.conditions.sentence());
        text.push_str(
            "| What | inn | The raw thing | Target | Runs | |\n|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let raw = row.raw.as_ref().map_or("", |figure| &figure.text);
            let met = match row.target {
                "" => "",
                _ if row.met => "met",
                _ => "**missed**",
            };
            text.push_str(&format!(
                "| {} | {} | {raw} | {} | {} | {met} |\n",
                row.what, row.ours.text, row.target, row.ours.runs
            ));
        }
        text
    }
}
