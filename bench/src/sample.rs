use std::time::Duration;

use serde::Serialize;

/// Some runs of one thing, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e3);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// By the nearest rank: a value that was really seen.
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let ranked = sorted.iter().enumerate().find(|(i, _)| {
            // Counts here are a few hundred: exact in an f64.
            #[expect(clippy::cast_precision_loss, reason = "a few hundred samples")]
            let share = (i + 1) as f64 / sorted.len() as f64;
            share >= q
        });
        ranked.map_or(f64::NAN, |(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let mut samples = Samples::default();
        for ms in [5, 1, 4, 2, 3] {
            samples.push(Duration::from_millis(ms));
        }
        let seen = |q| samples.quantile(q).round();
        assert_eq!(
            (samples.median().round(), seen(0.99), seen(0.0), seen(0.2)),
            (3.0, 5.0, 1.0, 1.0)
        );
        assert!(Samples::default().median().is_nan());
    }
}
