//! What the agent tells Prometheus: `GET /metrics`.
//!
//! ```text
//!   requests, boots, failures ──▶ Metrics (counted as they happen) ──┐
//!   VMs, networks, images, templates, the host ──read at a scrape────┴─▶ Exposition ─▶ text
//! ```
//!
//! Labels are bounded: routes and phases are a program's, and VMs are as many
//! as there are. A VM's own words never become a label.

mod collect;
mod exposition;
mod of_vms;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) use collect::collect;
pub(crate) use exposition::Form;

/// Seconds that an answer takes; what waits on purpose is in the last.
const ANSWERS: [f64; 7] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0];

/// Seconds from a start to a VM that is up.
const STARTS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// What only whoever is there can count.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default, Clone)]
struct Inner {
    /// By method, route and status.
    requests: BTreeMap<(String, String, u16), u64>,
    /// By method and route.
    answers: BTreeMap<(String, String), Histogram<8>>,
    /// By what a VM began from.
    starts: BTreeMap<&'static str, Histogram<13>>,
    /// By step.
    failures: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Clone)]
struct Histogram<const N: usize> {
    counts: [u64; N],
    sum: f64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { counts: [0; N], sum: 0.0 }
    }
}

impl<const N: usize> Histogram<N> {
    fn add(&mut self, bounds: &[f64], took: Duration) {
        let seconds = took.as_secs_f64();
        let at = bounds.iter().position(|bound| seconds <= *bound).unwrap_or(bounds.len());
        self.counts[at] += 1;
        self.sum += seconds;
    }
}

impl Metrics {
    /// `route` as it is declared, so that there are only as many as routes.
    pub(crate) fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        let mut inner = self.lock();
        let key = (method.to_owned(), route.to_owned(), status);
        *inner.requests.entry(key).or_default() += 1;
        let key = (method.to_owned(), route.to_owned());
        inner.answers.entry(key).or_default().add(&ANSWERS, took);
    }

    /// `from` is what it began from: `boot`, or `saved`.
    pub(crate) fn started(&self, from: &'static str, took: Duration) {
        self.lock().starts.entry(from).or_default().add(&STARTS, took);
    }

    pub(crate) fn failed(&self, step: &'static str) {
        *self.lock().failures.entry(step).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Numbers are counted up, one after the other.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
