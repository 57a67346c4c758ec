//! A pull as it is shown: a bar for each layer on a terminal, and otherwise a
//! plain line now and then.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use inn_client::api::{LayerProgress, LayerState, Progress};

use crate::context::Context;
use crate::progress::Meter;

/// Bars at a time: an image may have a hundred layers, a screen some 24 lines.
/// Those that are done make room.
const MOST_BARS: usize = 12;

pub(crate) struct LayerBars {
    meter: Meter,
    multi: Option<MultiProgress>,
    bars: Vec<Option<ProgressBar>>,
}

impl LayerBars {
    pub(crate) fn start(context: &Context, step: &str) -> Self {
        let multi =
            context.draws().then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self { meter: Meter::start(context, step), multi, bars: Vec::new() }
    }

    pub(crate) fn update(&mut self, progress: &Progress) {
        let Some(multi) = self.multi.as_ref().filter(|_| !progress.layers.is_empty()) else {
            self.meter.update(&progress.step, progress.done_bytes, progress.total_bytes);
            return;
        };
        self.meter.clear();
        self.bars.resize(progress.layers.len(), None);
        let is_over =
            |layer: &LayerProgress| matches!(layer.state, LayerState::Done | LayerState::Shared);
        let many = progress.layers.len() > MOST_BARS;
        for (layer, bar) in progress.layers.iter().zip(&mut self.bars) {
            if many && is_over(layer) {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
                continue;
            }
            if bar.is_none() && many && layer.state == LayerState::Waiting {
                continue;
            }
            let bar = bar.get_or_insert_with(|| multi.add(new_bar(layer)));
            let (word, done) = shown(layer);
            bar.set_message(word);
            bar.set_position(done);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.meter.clear();
        if let Some(multi) = &self.multi {
            // Nothing is left to be told if the screen cannot be written to.
            let _ = multi.clear();
        }
    }
}

impl Drop for LayerBars {
    fn drop(&mut self) {
        self.clear();
    }
}

fn new_bar(layer: &LayerProgress) -> ProgressBar {
    let template = "{prefix} {msg:11} [{bar:24}] {binary_bytes}/{binary_total_bytes}";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(layer.size_bytes), ProgressDrawTarget::hidden());
    bar.set_style(style);
    bar.set_prefix(layer.digest.short());
    bar
}

/// What is said of a layer, and how much of it that is.
fn shown(layer: &LayerProgress) -> (&'static str, u64) {
    match layer.state {
        LayerState::Waiting => ("waiting", 0),
        LayerState::Downloading => ("downloading", layer.arrived_bytes),
        LayerState::Downloaded => ("downloaded", layer.size_bytes),
        LayerState::Unpacking => ("unpacking", layer.unpacked_bytes),
        LayerState::Done => ("done", layer.size_bytes),
        LayerState::Shared => ("here", layer.size_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_shown_by_what_it_is_waited_for() {
        let layer = |state| LayerProgress {
            digest: format!("sha256:{}", "ab".repeat(32)).parse().unwrap(),
            size_bytes: 100,
            arrived_bytes: 60,
            unpacked_bytes: 40,
            state,
        };
        assert_eq!(shown(&layer(LayerState::Downloading)), ("downloading", 60));
        assert_eq!(shown(&layer(LayerState::Unpacking)), ("unpacking", 40));
        assert_eq!(shown(&layer(LayerState::Shared)), ("here", 100));
    }
}
