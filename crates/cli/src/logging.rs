use std::fs::OpenOptions;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::args::Globals;
use crate::failure::Failure;

/// Starts logging where --log-level or --log-file asks for it: JSON, but for
/// a person at a terminal.
pub(crate) fn begin(globals: &Globals) -> Result<(), Failure> {
    if globals.log_level.is_none() && globals.log_file.is_none() {
        return Ok(());
    }
    let level = globals.log_level.as_deref().unwrap_or("info");
    let filter = EnvFilter::try_new(level).map_err(|e| {
        let level = format!("--log-level `{level}` is neither a level nor a filter");
        Failure::because(level, &e).with_code(crate::failure::USAGE)
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    match &globals.log_file {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path).map_err(|e| {
                Failure::because(format!("cannot open the log file {}", path.display()), &e)
            })?;
            builder.json().with_ansi(false).with_writer(std::sync::Mutex::new(file)).init();
        }
        None if std::io::stderr().is_terminal() => {
            builder.with_writer(std::io::stderr).init();
        }
        None => builder.json().with_ansi(false).with_writer(std::io::stderr).init(),
    }
    Ok(())
}
