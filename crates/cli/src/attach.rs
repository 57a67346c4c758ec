//! `inn vm attach`: the output of a command that runs by itself, from here on
//! or from its beginning.
//!
//! ```text
//!   asked about ──▶ streaming ──status──▶ ended, with its exit code
//!                   │   ▲  │ Ctrl-C, or Ctrl-] on its terminal
//!        broken off ▼   │  ▼
//!                  waiting │ left: the command goes on
//! ```
//! The offset of what was printed is counted here, so that a connection that
//! breaks off, as with a restart of the agent, loses and repeats nothing.

use bytes::Bytes;
use inn_client::api::Code;
use inn_client::api::exec::{Status, TerminalSize};
use inn_client::{Client, ClientError, ExecEvent, ExecReceiver, ExecSender};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::args::AttachArgs;
use crate::context::{Context, complain};
use crate::failure::Failure;
use crate::output::Sink;
use crate::report::ExecReport;
use crate::retry::{Patience, code_passes};
use crate::session::{cut, exit_code};
use crate::signals::{Interrupt, Interrupts};
use crate::stdin;
use crate::terminal::{self, RawMode};
use crate::view::bytes;

/// Ctrl-], as with consoles.
const ESCAPE: u8 = 0x1d;

/// The newest size alone matters.
const SIZES: usize = 4;

pub(crate) async fn attach(context: &Context, args: &AttachArgs) -> Result<u8, Failure> {
    let client = context.client().await?;
    let mut interrupts = Interrupts::listen()?;
    let id = args.exec.to_string();
    let info = client.exec_info(&args.vm, &id).await?;
    if info.output_start > args.offset {
        let gone = bytes(info.output_start - args.offset);
        complain(&format!("{gone} of the output are kept no more"));
    }
    let on_terminal = info.tty && args.interactive;
    let mut resized = signal(SignalKind::window_change())
        .map_err(|e| Failure::because("cannot listen for the terminal's size", &e))?;
    let raw = if on_terminal { RawMode::enter()? } else { None };
    if raw.is_some() {
        context.note("attached; Ctrl-] leaves\r");
    }
    let mut attached = Attached {
        context,
        client: &client,
        vm: &args.vm,
        id: &id,
        offset: args.offset.max(info.output_start),
        stdin: args.interactive,
        input: args.interactive.then(stdin::read),
        escape: raw.is_some(),
        sized: on_terminal,
        sink: if context.json() { Sink::captured() } else { Sink::direct() },
    };
    let ended = attached.follow(&mut interrupts, &mut resized).await;
    drop(raw);
    let Attached { offset, sink, .. } = attached;
    match ended? {
        Ended::Status(status) => {
            if let Some(note) = cut(&status) {
                complain(&note);
            }
            if context.json() {
                let vm = client.vm(&args.vm).await?;
                let report = ExecReport::new(
                    &vm.id.to_string(),
                    vm.name.as_str(),
                    &status,
                    sink.into_captured(),
                );
                context.result(&report, String::new)?;
            }
            exit_code(&status, &args.vm)
        }
        Ended::Left(interrupt) => {
            context.note(&format!(
                "left {id}, which goes on; `inn vm attach {} {id} --offset {offset}` takes it up again",
                args.vm
            ));
            Ok(interrupt.map_or(0, Interrupt::exit_code))
        }
    }
}

enum Ended {
    Status(Status),
    /// By a signal, or by Ctrl-].
    Left(Option<Interrupt>),
}

/// How one connection came to its end.
enum Step {
    Ended(Ended),
    Broken(ClientError),
}

struct Attached<'a> {
    context: &'a Context,
    client: &'a Client,
    vm: &'a str,
    id: &'a str,
    /// Up to where the output was printed.
    offset: u64,
    stdin: bool,
    /// None once it has ended, or where none was wanted.
    input: Option<mpsc::Receiver<Bytes>>,
    /// Whether Ctrl-] in the input leaves.
    escape: bool,
    /// Whether the command has a terminal that is as large as ours.
    sized: bool,
    sink: Sink,
}

impl Attached<'_> {
    async fn follow(
        &mut self,
        interrupts: &mut Interrupts,
        resized: &mut Signal,
    ) -> Result<Ended, Failure> {
        let mut patience = Patience::default();
        let mut was_there = false;
        loop {
            // Once the input is over it stays so: the command has read its end.
            let stdin = self.stdin && self.input.is_some();
            let connecting = self.client.attach_exec(self.vm, self.id, self.offset, stdin);
            let connected = tokio::select! {
                // Given up when somebody leaves: it changes nothing.
                connected = connecting => connected,
                interrupt = interrupts.next() => return Ok(Ended::Left(Some(interrupt))),
            };
            let error = match connected {
                Ok(channel) => {
                    was_there = true;
                    let before = self.offset;
                    match self.stream(channel, interrupts, resized).await? {
                        Step::Ended(ended) => return Ok(ended),
                        Step::Broken(error) => {
                            if self.offset > before {
                                patience.renew();
                            }
                            error
                        }
                    }
                }
                Err(error) if was_there => error,
                Err(error) => return Err(error.into()),
            };
            tokio::select! {
                // Given up when somebody leaves: it only waits.
                waited = patience.wait(self.context, error) => waited?,
                interrupt = interrupts.next() => return Ok(Ended::Left(Some(interrupt))),
            }
        }
    }

    /// One connection, from its first byte to its last.
    async fn stream(
        &mut self,
        (mut sender, mut receiver): (ExecSender, ExecReceiver),
        interrupts: &mut Interrupts,
        resized: &mut Signal,
    ) -> Result<Step, Failure> {
        let (size, mut sizes) = mpsc::channel(SIZES);
        if self.sized {
            // There is room: the channel is new.
            let _ = size.try_send(terminal::size());
        }
        let mut input = self.input.take();
        let mut over = false;
        let step = {
            let pumping = pump(&mut sender, &mut input, &mut sizes, self.escape);
            tokio::pin!(pumping);
            loop {
                tokio::select! {
                    // Cancel safe: a message is taken whole or not at all.
                    event = receiver.next() => {
                        if let Some(step) = self.take(event).await? {
                            break step;
                        }
                    }
                    // Goes on where it was: the future itself is kept.
                    pumped = &mut pumping, if !over => match pumped {
                        Pumped::Left => break Step::Ended(Ended::Left(None)),
                        // Whoever reads the output learns why.
                        Pumped::Broken => over = true,
                    },
                    // Cancel safe, and only the newest size matters.
                    _ = resized.recv(), if self.sized => {
                        let _ = size.try_send(terminal::size());
                    }
                    // Cancel safe: a signal that came stays to be seen.
                    interrupt = interrupts.next() => break Step::Ended(Ended::Left(Some(interrupt))),
                }
            }
        };
        self.input = input;
        Ok(step)
    }

    /// Prints what came; a step where the connection is over.
    async fn take(
        &mut self,
        event: Result<Option<ExecEvent>, ClientError>,
    ) -> Result<Option<Step>, Failure> {
        let written = match event {
            Ok(Some(ExecEvent::Stdout(data))) => {
                self.offset += data.len() as u64;
                self.sink.stdout(&data).await
            }
            Ok(Some(ExecEvent::Stderr(data))) => {
                self.offset += data.len() as u64;
                self.sink.stderr(&data).await
            }
            // Told only to who asks for it.
            Ok(Some(ExecEvent::InputTaken(_))) => return Ok(None),
            Ok(Some(ExecEvent::Status(status))) => {
                self.sink.finish().await.map_err(|e| Failure::output(&e))?;
                return Ok(Some(match lost_guest(&status) {
                    Some(error) => Step::Broken(error),
                    None => Step::Ended(Ended::Status(status)),
                }));
            }
            Ok(None) => {
                let source = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                return Ok(Some(Step::Broken(ClientError::Broken {
                    during: format!("the attach to {}", self.id),
                    source: source.into(),
                })));
            }
            Err(error) => return Ok(Some(Step::Broken(error))),
        };
        written.map_err(|e| Failure::output(&e)).map(|()| None)
    }
}

/// The status of a command that may well run on: its guest's agent is away.
fn lost_guest(status: &Status) -> Option<ClientError> {
    let code: Code = serde_json::from_value(status.reason.clone().into()).ok()?;
    let problem = inn_client::api::Problem::new(code, status.message.clone());
    (code_passes(code) && status.exit_code().is_none()).then(|| problem.into())
}

enum Pumped {
    Left,
    Broken,
}

/// Sends what is typed, and the terminal's size; goes on after the input's end
/// for the latter.
async fn pump(
    sender: &mut ExecSender,
    input: &mut Option<mpsc::Receiver<Bytes>>,
    sizes: &mut mpsc::Receiver<TerminalSize>,
    escape: bool,
) -> Pumped {
    loop {
        let sent = tokio::select! {
            // Sizes go first: input may be without end.
            biased;
            // Cancel safe, as channels are. Its sender outlives this.
            Some(size) = sizes.recv() => sender.resize(size).await,
            data = next_input(input) => match data {
                Some(data) => {
                    let stop = data.iter().position(|byte| escape && *byte == ESCAPE);
                    let sent = match data.slice(..stop.unwrap_or(data.len())) {
                        part if part.is_empty() => Ok(()),
                        part => sender.stdin(&part).await,
                    };
                    if stop.is_some() {
                        return Pumped::Left;
                    }
                    sent
                }
                None => {
                    *input = None;
                    sender.close_stdin().await
                }
            },
        };
        if sent.is_err() {
            return Pumped::Broken;
        }
    }
}

/// Never, where there is no input.
async fn next_input(input: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}
