//! What the agent's log says of a VM, once more beside the VM's own logs.
//!
//! ```text
//!   a line within the span `vm`, or with its id ──queue──▶ a thread ──▶ logs/agent.log
//!                                                 └ full: the line is in the agent's log alone
//! ```

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use inn_units::{Bytes, VmId};
use inn_vmm::bound_log;
use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::paths::Paths;

/// The name of the span that a VM's task is in.
pub(crate) const SPAN: &str = "vm";

/// Lines that wait to be written, as of the log itself.
const QUEUE: usize = 1024;

/// For what is left to be written at the end.
const LAST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct VmLines {
    queue: SyncSender<Told>,
}

/// Writes what is left when it is dropped.
#[derive(Debug)]
pub(super) struct LastLines {
    queue: SyncSender<Told>,
}

#[derive(Debug)]
enum Told {
    Line(VmId, String),
    /// All lines before it are written once this is answered.
    End(SyncSender<()>),
}

/// Of a span.
struct OfVm(VmId);

impl VmLines {
    /// Each VM's are kept in twice `limit` bytes.
    pub(super) fn start(paths: Paths, limit: Bytes) -> io::Result<(Self, LastLines)> {
        let (queue, told) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("vm-lines".to_owned())
            .spawn(move || write(&told, &paths, limit))?;
        Ok((Self { queue: queue.clone() }, LastLines { queue }))
    }
}

impl Drop for LastLines {
    fn drop(&mut self) {
        let (answer, answered) = sync_channel(1);
        if self.queue.try_send(Told::End(answer)).is_ok() {
            // Either it is written by then, or it never is.
            let _ = answered.recv_timeout(LAST);
        }
    }
}

fn write(told: &Receiver<Told>, paths: &Paths, limit: Bytes) {
    while let Ok(first) = told.recv() {
        // What has gathered: a file is opened once for all lines of its VM.
        let gathered = std::iter::once(first).chain(told.try_iter().take(QUEUE));
        let (mut lines, mut ends) = (BTreeMap::<VmId, String>::new(), Vec::new());
        for told in gathered {
            match told {
                Told::Line(vm, line) => lines.entry(vm).or_default().push_str(&line),
                Told::End(answer) => ends.push(answer),
            }
        }
        for (vm, lines) in lines {
            let path = paths.of_vm(vm).agent_log();
            // Where its directory is not there yet, or no more, nothing of
            // its is: a line would leave one behind. To log that would be
            // told here again.
            let opened = OpenOptions::new().create(true).append(true).open(&path);
            if opened.and_then(|mut log| log.write_all(lines.as_bytes())).is_ok() {
                let _ = bound_log(&path, limit);
            }
        }
        for answer in ends {
            // Nobody may wait for it any more.
            let _ = answer.send(());
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for VmLines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().name() != SPAN {
            return;
        }
        let mut words = Words::default();
        attributes.record(&mut words);
        if let (Some(vm), Some(span)) = (words.vm, context.span(id)) {
            span.extensions_mut().insert(OfVm(vm));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut words = Words::default();
        event.record(&mut words);
        let mut scope = context.event_scope(event).into_iter().flatten();
        let in_span = || scope.find_map(|span| Some(span.extensions().get::<OfVm>()?.0));
        let Some(vm) = words.vm.or_else(in_span) else { return };
        let (at, level) = (Timestamp::now(), event.metadata().level());
        let Words { message, fields, .. } = words;
        let line = format!("{at:.3} {level:>5} {message}{fields}\n");
        // Nobody who works for a VM waits for its log.
        let _ = self.queue.try_send(Told::Line(vm, line));
    }
}

/// What a line says, in one line.
#[derive(Default)]
struct Words {
    vm: Option<VmId>,
    message: String,
    fields: String,
}

impl Words {
    fn add(&mut self, field: &Field, text: &str) {
        match field.name() {
            "message" => self.message = one_line(text),
            "id" if self.vm.is_none() => self.vm = text.parse().ok(),
            // Whose log it is in.
            "vm" => {}
            name => {
                let text = one_line(text);
                let quoted = text.is_empty() || text.contains([' ', '"', '=']);
                // Writing to a String cannot fail.
                let _ = match quoted {
                    true => write!(self.fields, " {name}={text:?}"),
                    false => write!(self.fields, " {name}={text}"),
                };
            }
        }
    }
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

/// When a line of a VM's log was written, up to the end of its millisecond.
pub(crate) fn time_of_line(line: &[u8]) -> Option<Timestamp> {
    let time = line.split(|byte| *byte == b' ').next()?;
    let time: Timestamp = str::from_utf8(time).ok()?.parse().ok()?;
    time.checked_add(Duration::from_micros(999)).ok()
}

/// A guest has a say in some of them.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn a_vm_s_lines_are_beside_its_logs() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths { data_dir: directory.path().to_owned(), ..Paths::default() };
        let (own, other) = (VmId::from_bytes([1; 5]), VmId::from_bytes([2; 5]));
        std::fs::create_dir_all(paths.of_vm(own).logs()).unwrap();
        let (lines, last) = VmLines::start(paths.clone(), Bytes::mib(1)).unwrap();
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("of nobody");
            let span = tracing::info_span!(SPAN, id = %own);
            span.in_scope(|| {
                tracing::warn!(
                    vm = "web",
                    step = "launch",
                    cause = "it said \"no\nway\"",
                    "failed"
                );
                tracing::info!(took_ms = 7, "runs");
            });
            tracing::info!(id = %own, "asked for");
            tracing::info!(id = %other, "of one that is not there");
        });
        drop(last);
        let text = std::fs::read_to_string(paths.of_vm(own).agent_log()).unwrap();
        let times = text.lines().map(|line| time_of_line(line.as_bytes()).unwrap());
        assert!(times.is_sorted() && time_of_line(b"not one\n").is_none());
        let said: Vec<&str> = text.lines().map(|line| &line[25..]).collect();
        let expected = [
            " WARN failed step=launch cause=\"it said \\\"no way\\\"\"",
            " INFO runs took_ms=7",
            " INFO asked for",
        ];
        assert_eq!(said, expected, "{text}");
        assert!(!paths.of_vm(other).dir.exists());
    }
}
