//! What is shown while something takes long: a spinner or a bar on a terminal,
//! and otherwise a plain line now and then, always on stderr.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use inn_units::{Bytes, format_duration};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::context::{Context, complain};

/// Nothing is drawn for what takes less: it would only flicker.
const BEFORE_DRAWING: Duration = Duration::from_millis(150);
/// When somebody reading a log begins to wonder.
const BEFORE_PLAIN: Duration = Duration::from_secs(5);
const BETWEEN_PLAIN: Duration = Duration::from_secs(15);

/// A long step without a known length.
#[derive(Debug)]
pub(crate) struct Spinner {
    bar: ProgressBar,
    message: Arc<Mutex<String>>,
    task: Option<JoinHandle<()>>,
}

impl Spinner {
    pub(crate) fn start(context: &Context, message: impl Into<String>) -> Self {
        let message = Arc::new(Mutex::new(message.into()));
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let shown = Arc::clone(&message);
        let drawn = bar.clone();
        let (draws, quiet) = (context.draws(), context.globals.quiet);
        let begun = Instant::now();
        let task = (!quiet).then(|| {
            tokio::spawn(async move {
                if draws {
                    tokio::time::sleep(BEFORE_DRAWING).await;
                    drawn.set_style(style("{spinner} {msg} {elapsed}"));
                    drawn.set_draw_target(ProgressDrawTarget::stderr());
                    drawn.set_message(current(&shown));
                    drawn.enable_steady_tick(Duration::from_millis(100));
                    return;
                }
                tokio::time::sleep(BEFORE_PLAIN).await;
                loop {
                    let since = format_duration(begun.elapsed());
                    complain(&format!("{} ({since} so far)", current(&shown)));
                    tokio::time::sleep(BETWEEN_PLAIN).await;
                }
            })
        });
        Self { bar, message, task }
    }

    /// One that never shows, where others write at the same time.
    pub(crate) fn silent() -> Self {
        Self { bar: ProgressBar::hidden(), message: Arc::default(), task: None }
    }

    pub(crate) fn say(&self, message: impl Into<String>) {
        let message = message.into();
        self.bar.set_message(message.clone());
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = message;
    }

    /// Takes it off the screen, so that other output can follow.
    pub(crate) fn clear(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            self.bar.finish_and_clear();
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.clear();
    }
}

fn current(message: &Mutex<String>) -> String {
    message.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A long step that counts bytes.
#[derive(Debug)]
pub(crate) struct Meter {
    bar: Option<ProgressBar>,
    draws: bool,
    quiet: bool,
    begun: Instant,
    last_plain: Option<Instant>,
    step: String,
}

impl Meter {
    pub(crate) fn start(context: &Context, step: impl Into<String>) -> Self {
        Self {
            bar: None,
            draws: context.draws(),
            quiet: context.globals.quiet,
            begun: Instant::now(),
            last_plain: None,
            step: step.into(),
        }
    }

    /// `total` is 0 while nobody knows it.
    pub(crate) fn update(&mut self, step: &str, done: u64, total: u64) {
        if self.quiet {
            return;
        }
        if self.draws {
            self.draw(step, done, total);
        } else if self.plain_is_due(step) {
            complain(&match (done, total) {
                (0, 0) => step.to_owned(),
                (done, 0) => format!("{step}: {}", Bytes(done)),
                (done, total) => format!("{step}: {} of {}", Bytes(done), Bytes(total)),
            });
        }
    }

    fn draw(&mut self, step: &str, done: u64, total: u64) {
        if self.bar.is_none() && self.begun.elapsed() < BEFORE_DRAWING {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
        });
        if bar.length() != (total > 0).then_some(total) || self.step != step {
            self.step = step.to_owned();
            bar.reset_eta();
            match total {
                0 => {
                    bar.unset_length();
                    bar.set_style(style("{spinner} {msg} {binary_bytes} {binary_bytes_per_sec}"));
                }
                _ => {
                    bar.set_length(total);
                    bar.set_style(style(
                        "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
                    ));
                }
            }
            bar.set_message(step.to_owned());
        }
        bar.set_position(done);
    }

    /// On a new step once things have taken long, and now and then within one.
    fn plain_is_due(&mut self, step: &str) -> bool {
        let now = Instant::now();
        let is_new = self.step != step;
        self.step = step.to_owned();
        let due = match self.last_plain {
            None => is_new || now.duration_since(self.begun) >= BEFORE_PLAIN,
            Some(last) => is_new || now.duration_since(last) >= BETWEEN_PLAIN,
        };
        if due {
            self.last_plain = Some(now);
        }
        due
    }

    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
