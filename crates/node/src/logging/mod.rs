//! The agent's own log: to stderr or a file that is bounded, as text or JSON
//! lines. What it says of a VM is beside the VM's logs, too.

mod rotate;
mod vm_lines;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use self::rotate::Rotating;
use self::vm_lines::{LastLines, VmLines};
pub(crate) use self::vm_lines::{SPAN as VM_SPAN, time_of_line};
use crate::config::{Config, LogFormat};
use crate::error::AgentError;

/// Lines that wait to be written; past it lines are dropped, never the work
/// that logs them held up.
const QUEUE: usize = 4096;

/// Writes what is left when it is dropped: keep it to the end.
#[derive(Debug)]
#[must_use]
pub struct LogGuard {
    _writer: Option<tracing_appender::non_blocking::WorkerGuard>,
    _last_lines: LastLines,
    filter: LogFilter,
}

/// Says what is logged from now on.
#[derive(Debug, Clone)]
pub(crate) struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogGuard {
    pub(crate) fn filter(&self) -> LogFilter {
        self.filter.clone()
    }
}

impl LogFilter {
    /// The filter is one that the configuration has accepted.
    pub(crate) fn set(&self, filter: &str) {
        if let Err(error) = self.0.reload(EnvFilter::new(filter)) {
            tracing::warn!(%error, "the log's filter stays as it was");
        }
    }
}

/// Sets up logging for this process. A second call leaves the first in place.
pub fn init_logging(config: &Config) -> Result<LogGuard, AgentError> {
    // Checked when the configuration was read.
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&config.live.log));
    let (writer, guard) = match &config.fixed.log_file {
        Some(path) => {
            let file = Rotating::open(path, config.fixed.log_size.get())
                .map_err(AgentError::io("open the log file", path))?;
            let (writer, guard) = tracing_appender::non_blocking::NonBlockingBuilder::default()
                .buffered_lines_limit(QUEUE)
                .finish(file);
            (Some(writer), Some(guard))
        }
        None => (None, None),
    };
    let ansi = writer.is_none() && std::io::IsTerminal::is_terminal(&std::io::stderr());
    // A person reads the terminal, programs all else.
    let format =
        config.fixed.log_format.unwrap_or(if ansi { LogFormat::Text } else { LogFormat::Json });
    let lines = fmt::layer();
    let lines = match (format, writer) {
        (LogFormat::Json, Some(writer)) => lines.json().with_writer(writer).boxed(),
        (LogFormat::Json, None) => lines.json().with_writer(std::io::stderr).boxed(),
        (LogFormat::Text, Some(writer)) => lines.with_ansi(false).with_writer(writer).boxed(),
        (LogFormat::Text, None) => lines.with_ansi(ansi).with_writer(std::io::stderr).boxed(),
    };
    let (vm_lines, last_lines) = VmLines::start(config.fixed.paths.clone(), config.live.log_limit)
        .map_err(|source| AgentError::Start { step: "write what the log says of VMs", source })?;
    let registry = tracing_subscriber::registry().with(filter).with(lines).with(vm_lines);
    if let Err(error) = registry.try_init() {
        tracing::debug!(%error, "logging was set up before");
    }
    Ok(LogGuard { _writer: guard, _last_lines: last_lines, filter: LogFilter(handle) })
}
