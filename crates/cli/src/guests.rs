//! Guests down with their host and up again, and `inn agent reload`.

use inn_client::api::{EndKind, GuestDown};

use crate::args::ShutdownGuestsArgs;
use crate::context::{Context, complain};
use crate::failure::{FAILED, Failure, harmless};
use crate::table::Table;

pub(crate) async fn shutdown(context: &Context, args: &ShutdownGuestsArgs) -> Result<u8, Failure> {
    let guests = context.client().await?.shutdown_guests(args.timeout).await?.items;
    context.result(&guests, || table(&guests))?;
    let left: Vec<_> = guests.iter().filter(|g| !g.down).map(|g| g.name.as_str()).collect();
    if left.is_empty() {
        return Ok(0);
    }
    complain(&format!("still there: {}", left.join(", ")));
    Ok(FAILED)
}

fn table(guests: &[GuestDown]) -> String {
    let mut table = Table::new(["NAME", "SHUTDOWN", "WHY"]);
    for guest in guests {
        let how = match (guest.ran, guest.down, &guest.how) {
            (_, false, _) => "still there",
            (false, true, _) => "was down",
            (true, true, Some(EndKind::Forced)) => "by force",
            (true, true, _) => "by itself",
        };
        let why = guest.reason.as_deref().map(harmless).unwrap_or_default();
        table.push([guest.name.to_string(), how.to_owned(), why]);
    }
    table.render()
}

pub(crate) async fn start(context: &Context) -> Result<u8, Failure> {
    let names = context.client().await?.start_guests().await?.items;
    context.result(&names, || names.iter().map(|name| format!("{name}\n")).collect())?;
    Ok(0)
}

/// `inn agent reload`.
pub(crate) async fn reload(context: &Context) -> Result<u8, Failure> {
    let reloaded = context.client().await?.reload().await?;
    context.result(&reloaded, || {
        let mut text = match reloaded.changed.is_empty() {
            true => "nothing has changed\n".to_owned(),
            false => format!("changed: {}\n", reloaded.changed.join(", ")),
        };
        if !reloaded.waiting.is_empty() {
            text.push_str(&format!("after a restart: {}\n", reloaded.waiting.join(", ")));
        }
        text
    })?;
    Ok(0)
}
