use clap::Args;
use inn_units::EventSeq;
use jiff::Timestamp;

use super::value;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn events                              the last hundred
  inn events --follow                     and what comes, until Ctrl-C
  inn events --vm web --since 10m
  inn events --kind vm-failed,vm-ended
  inn events --kind api-write -o json     who changed what, and how that went
  inn events --follow --after 1207        what came after that one, and what comes

Each event has a number, and numbers are never used twice. The agent keeps the
newest (events.keep in its configuration).")]
pub(crate) struct EventsArgs {
    /// Go on with what comes; with -o json one object a line
    #[arg(short, long)]
    pub follow: bool,
    /// Only what is about this VM: its id, or the name that it has or had
    #[arg(long, value_name = "VM")]
    pub vm: Option<String>,
    /// Only of this kind; repeats, or with commas
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub kind: Vec<String>,
    /// Only what is as young as this, such as 10m, or came after this time
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub since: Option<Timestamp>,
    /// Only what came after the event of this number
    #[arg(long, value_name = "NUMBER", value_parser = number)]
    pub after: Option<EventSeq>,
    /// Only the last so many; 100 where nothing else says how many
    #[arg(long, value_name = "COUNT")]
    pub tail: Option<u32>,
}

pub(super) fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago = value::duration(text)
        .map_err(|_| "is neither a duration such as 10m nor a time such as 2026-01-31T12:00:00Z")?;
    Timestamp::now().checked_sub(ago).map_err(|error| error.to_string())
}

fn number(text: &str) -> Result<EventSeq, String> {
    text.parse().map(EventSeq).map_err(|_| "is not an event's number".to_owned())
}
