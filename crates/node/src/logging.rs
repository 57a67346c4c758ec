//! The agent's own log: to stderr or a file, as text or JSON lines.

use std::fs::OpenOptions;

use tracing_subscriber::EnvFilter;

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
}

/// Sets up logging for this process. A second call leaves the first in place.
pub fn init_logging(config: &Config) -> Result<LogGuard, AgentError> {
    // Checked when the configuration was read.
    let filter = EnvFilter::new(&config.log);
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    let (writer, guard) = match &config.log_file {
        Some(path) => {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
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
    let format = config.log_format.unwrap_or(if ansi { LogFormat::Text } else { LogFormat::Json });
    let set = match (format, writer) {
        (LogFormat::Json, Some(writer)) => builder.json().with_writer(writer).try_init(),
        (LogFormat::Json, None) => builder.json().with_writer(std::io::stderr).try_init(),
        (LogFormat::Text, Some(writer)) => builder.with_ansi(false).with_writer(writer).try_init(),
        (LogFormat::Text, None) => builder.with_ansi(ansi).with_writer(std::io::stderr).try_init(),
    };
    if let Err(error) = set {
        tracing::debug!(error, "logging was set up before");
    }
    Ok(LogGuard { _writer: guard })
}
