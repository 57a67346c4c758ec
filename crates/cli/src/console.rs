use inn_client::ConsoleSender;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use crate::args::ConsoleArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::signals::Interrupts;
use crate::stdin;
use crate::terminal::RawMode;

/// Ctrl-], as telnet and virsh have it.
const ESCAPE: u8 = 0x1d;

/// `inn vm console`: the serial console, until the machine ends, stdin does
/// on a script's side, or Ctrl-] is typed.
pub(crate) async fn console(context: &Context, args: &ConsoleArgs) -> Result<u8, Failure> {
    let vm = args.vm.name();
    let client = context.client().await?;
    let (sender, mut receiver) = client.console(vm).await?;
    let mut interrupts = Interrupts::listen()?;
    context.note(&format!("attached to the console of {vm}; Ctrl-] leaves"));
    let raw = RawMode::enter()?;
    // Its end says that the user wants to leave; on failure we hear it here.
    let (leave, mut left) = mpsc::channel::<()>(1);
    tokio::spawn(send_input(sender, leave));
    let mut out = tokio::io::stdout();
    let code = loop {
        tokio::select! {
            // Cancel safe: a message is taken whole or not at all.
            data = receiver.next() => match data? {
                Some(data) => {
                    let written = async { out.write_all(&data).await?; out.flush().await };
                    written.await.map_err(|e| Failure::output(&e))?;
                }
                None => break None,
            },
            // Cancel safe, as channels are. Nothing is ever sent.
            _ = left.recv() => break Some(0),
            // Cancel safe: a signal that came stays to be seen.
            interrupt = interrupts.next() => break Some(interrupt.exit_code()),
        }
    };
    drop(raw);
    match code {
        Some(code) => Ok(code),
        None => {
            context.note(&format!("the console of {vm} has ended"));
            Ok(0)
        }
    }
}

/// Sends stdin up to Ctrl-], then drops `leave`. When stdin merely ends, the
/// console goes on: a script's `</dev/null` means to watch.
async fn send_input(mut sender: ConsoleSender, leave: mpsc::Sender<()>) {
    let mut input = stdin::read();
    while let Some(data) = input.recv().await {
        let stop = data.iter().position(|byte| *byte == ESCAPE);
        let part = data.slice(..stop.unwrap_or(data.len()));
        if !part.is_empty() && sender.send(part).await.is_err() {
            break;
        }
        if stop.is_some() {
            return;
        }
    }
    leave.closed().await;
}
