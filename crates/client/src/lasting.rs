//! A command that is taken up again where the connection to the agent breaks
//! off, as it does when the agent is restarted or killed.
//!
//! ```text
//!   asked ──▶ connected ──status──▶ over
//!               │   ▲
//!    broken off ▼   │ attached at our offset; input again from what has arrived
//!              waiting ──deadline, or nothing to go on with──▶ the error
//! ```
//! A task of its own drives it. It says what has been taken of the output, so
//! that the guest can let go of it, and keeps what it has sent of the input
//! until the guest has it: after a break nothing is lost and nothing is
//! doubled.

mod input;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use inn_api::exec::{GRACE, InputTaken, Status, TAKEN_BYTES, TAKEN_MESSAGES, TerminalSize};
use inn_api::{Code, Problem};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};

use self::input::{Piece, Unconfirmed};
use crate::{Client, ClientError, ExecEvent, ExecReceiver, ExecRequest, ExecSender};

/// Output on its way to the caller, of 64 KiB at most each.
const EVENTS: usize = 16;

/// Input on its way from the caller, besides what is unconfirmed.
const INPUTS: usize = 2;

/// Signals and sizes that somebody makes before they are sent.
const CONTROLS: usize = 16;

const BETWEEN_TRIES: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastingEvent {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The connection broke off, for this reason, and is being made anew.
    Broken(String),
    /// It is there again.
    Resumed,
    /// The process has ended or could not be started; nothing follows.
    Status(Status),
}

#[derive(Debug)]
enum Control {
    Resize(TerminalSize),
    Signal(String),
}

/// What goes to the process. Dropping it leaves the process alone. Each call
/// returns false once the command is over.
#[derive(Debug, Clone)]
pub struct LastingSender {
    /// `None` is the end.
    input: mpsc::Sender<Option<Bytes>>,
    controls: mpsc::Sender<Control>,
}

/// What comes from the process. Dropping it ends the process.
#[derive(Debug)]
pub struct LastingReceiver(mpsc::Receiver<Result<LastingEvent, ClientError>>);

impl Client {
    /// As [`exec`](Self::exec), but a connection that breaks off is made anew
    /// for as long as the guest keeps the process.
    pub async fn lasting_exec(
        &self,
        vm: &str,
        request: &ExecRequest,
    ) -> Result<(LastingSender, LastingReceiver), ClientError> {
        let (id, channel) = self.exec_to_confirm(vm, request).await?;
        let (events, received) = mpsc::channel(EVENTS);
        let (input, inputs) = mpsc::channel(INPUTS);
        let (control, controls) = mpsc::channel(CONTROLS);
        let driver = Driver {
            client: self.clone(),
            vm: vm.to_owned(),
            // What has no name cannot be found again.
            begun: id.is_none().then_some(false),
            id: id.unwrap_or_default(),
            stdin: request.stdin,
            once: request.once,
            offset: 0,
            shared: Shared::default(),
            inputs: Some(inputs),
            controls: Some(controls),
        };
        if driver.begun == Some(false) {
            driver.shared.input().confirm(InputTaken::default());
        }
        tokio::spawn(async move {
            // Cancelled where nobody is left to tell.
            tokio::select! {
                () = driver.run(channel, &events) => {}
                () = events.closed() => {}
            }
        });
        Ok((LastingSender { input, controls: control }, LastingReceiver(received)))
    }
}

impl LastingSender {
    /// Waits while much of what was sent before has not reached the process.
    /// Cancel safe: it is sent whole, or not at all.
    pub async fn stdin(&self, data: Bytes) -> bool {
        self.input.send(Some(data)).await.is_ok()
    }

    /// The process reads the end of its input; its output goes on.
    pub async fn close_stdin(&self) -> bool {
        self.input.send(None).await.is_ok()
    }

    pub async fn resize(&self, size: TerminalSize) -> bool {
        self.controls.send(Control::Resize(size)).await.is_ok()
    }

    /// Sends a signal such as `SIGINT` to the process's group.
    pub async fn signal(&self, name: &str) -> bool {
        self.controls.send(Control::Signal(name.to_owned())).await.is_ok()
    }
}

impl LastingReceiver {
    /// The next event; none after the last one. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<LastingEvent>, ClientError> {
        self.0.recv().await.transpose()
    }
}

type Events = mpsc::Sender<Result<LastingEvent, ClientError>>;

/// What the reading and the writing half of a connection share.
#[derive(Debug, Default)]
struct Shared {
    input: Mutex<Unconfirmed>,
    /// Some of the input was confirmed.
    confirmed: Notify,
}

impl Shared {
    fn input(&self) -> MutexGuard<'_, Unconfirmed> {
        // No borrower panics in the middle of a change.
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Driver {
    client: Client,
    vm: String,
    id: String,
    stdin: bool,
    once: bool,
    /// Up to where the caller has the output.
    offset: u64,
    /// Whether it is known to run, and then whether it outlives its agent.
    begun: Option<bool>,
    shared: Shared,
    /// `None` once their senders are gone.
    inputs: Option<mpsc::Receiver<Option<Bytes>>>,
    controls: Option<mpsc::Receiver<Control>>,
}

/// How one connection came to its end.
enum Step {
    Over,
    Broken(ClientError),
}

impl Driver {
    async fn run(mut self, channel: (ExecSender, ExecReceiver), events: &Events) {
        let mut channel = Some(channel);
        loop {
            let error = match channel.take() {
                Some(channel) => match self.serve(channel, events).await {
                    Step::Over => return,
                    Step::Broken(error) => error,
                },
                None => return,
            };
            if self.once || self.begun == Some(false) {
                // An older guest has ended it by now, too.
                let _gone = events.send(Err(error)).await;
                return;
            }
            let _gone = events.send(Ok(LastingEvent::Broken(error.to_string()))).await;
            match self.resume(error).await {
                Ok(again) => channel = Some(again),
                Err(error) => {
                    let _gone = events.send(Err(error)).await;
                    return;
                }
            }
            let _gone = events.send(Ok(LastingEvent::Resumed)).await;
        }
    }

    /// Attaches to the process, as soon as there is an agent that can.
    async fn resume(
        &mut self,
        broken: ClientError,
    ) -> Result<(ExecSender, ExecReceiver), ClientError> {
        let deadline = Instant::now() + GRACE;
        let mut why = broken;
        loop {
            let attempt = async {
                let channel =
                    self.client.attach_to_confirm(&self.vm, &self.id, self.offset, self.stdin);
                let (sender, mut receiver) = channel.await?;
                // Whether it is there is the first thing that is told.
                match receiver.next().await? {
                    Some(ExecEvent::InputTaken(taken)) => Ok((sender, receiver, taken)),
                    Some(ExecEvent::Status(status)) => Err(failure(&status)),
                    _ => Err(ended_early(&self.id)),
                }
            };
            match timeout_at(deadline, attempt).await {
                Ok(Ok((sender, receiver, taken))) => {
                    self.begin_again(taken);
                    return Ok((sender, receiver));
                }
                Ok(Err(error)) if passes(&error) => why = error,
                // It had not begun, or an older guest has not kept it: what
                // came first says more.
                Ok(Err(error)) if error.is_not_found() && self.begun.is_none() => return Err(why),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(why),
            }
            if Instant::now() + BETWEEN_TRIES >= deadline {
                return Err(why);
            }
            sleep(BETWEEN_TRIES).await;
        }
    }

    fn begin_again(&mut self, taken: InputTaken) {
        self.begun = Some(taken.lasting);
        let mut input = self.shared.input();
        input.confirm(taken);
        input.send_again();
    }

    /// One connection, from its first byte to its last.
    async fn serve(
        &mut self,
        (sender, mut receiver): (ExecSender, ExecReceiver),
        events: &Events,
    ) -> Step {
        let (taken, mut takens) = watch::channel(self.offset);
        let writing =
            write(sender, &self.shared, &mut self.inputs, &mut self.controls, &mut takens);
        tokio::pin!(writing);
        let mut output = Output { told: self.offset, offset: &mut self.offset, messages: 0, taken };
        let mut over = false;
        loop {
            tokio::select! {
                // Cancel safe: a message is taken whole or not at all.
                event = receiver.next() => {
                    let passed = match event {
                        Ok(Some(ExecEvent::InputTaken(taken))) => {
                            self.begun = Some(taken.lasting);
                            let mut input = self.shared.input();
                            input.confirm(taken);
                            drop(input);
                            self.shared.confirmed.notify_one();
                            continue;
                        }
                        Ok(Some(ExecEvent::Stdout(data))) => {
                            output.came(data.len());
                            LastingEvent::Stdout(data)
                        }
                        Ok(Some(ExecEvent::Stderr(data))) => {
                            output.came(data.len());
                            LastingEvent::Stderr(data)
                        }
                        Ok(Some(ExecEvent::Status(status))) => {
                            if self.begun == Some(true)
                                && let Some(error) = lost_guest(&status)
                            {
                                return Step::Broken(error);
                            }
                            let _gone = events.send(Ok(LastingEvent::Status(status))).await;
                            return Step::Over;
                        }
                        Ok(None) => return Step::Broken(ended_early(&self.id)),
                        Err(error) => return Step::Broken(error),
                    };
                    // Whoever is gone is noticed by the task.
                    let _gone = events.send(Ok(passed)).await;
                    output.tell();
                }
                // Goes on where it was: the future itself is kept. Whoever
                // reads the output learns why it broke.
                () = &mut writing, if !over => over = true,
            }
        }
    }
}

/// Output as it comes, and when it is to be confirmed.
struct Output<'a> {
    offset: &'a mut u64,
    told: u64,
    messages: u32,
    taken: watch::Sender<u64>,
}

impl Output<'_> {
    fn came(&mut self, bytes: usize) {
        *self.offset += bytes as u64;
        self.messages += 1;
    }

    fn tell(&mut self) {
        if *self.offset - self.told >= TAKEN_BYTES || self.messages >= TAKEN_MESSAGES {
            (self.told, self.messages) = (*self.offset, 0);
            self.taken.send_replace(*self.offset);
        }
    }
}

/// Sends what is to be sent; ends with the connection.
async fn write(
    mut sender: ExecSender,
    shared: &Shared,
    inputs: &mut Option<mpsc::Receiver<Option<Bytes>>>,
    controls: &mut Option<mpsc::Receiver<Control>>,
    taken: &mut watch::Receiver<u64>,
) {
    loop {
        let due = shared.input().next();
        let has_room = shared.input().has_room();
        let sent = tokio::select! {
            // What the process may wait for goes first; input may be without
            // end.
            biased;
            // Cancel safe: the newest is kept.
            Ok(()) = taken.changed() => {
                let offset = *taken.borrow_and_update();
                sender.output_taken(offset).await
            }
            // Cancel safe, as channels are.
            control = receive(controls) => match control {
                Control::Resize(size) => sender.resize(size).await,
                Control::Signal(name) => sender.signal(&name).await,
            },
            () = std::future::ready(()), if due.is_some() => {
                let Some(piece) = due else { continue };
                // First, since it may be confirmed before it is away; where
                // the connection breaks it is sent again.
                shared.input().sent(&piece);
                match piece {
                    Piece::Data(data) => sender.stdin(&data).await,
                    Piece::End => sender.close_stdin().await,
                }
            }
            data = receive(inputs), if has_room => {
                shared.input().push(data);
                continue;
            }
            // Cancel safe: looked at again.
            () = shared.confirmed.notified() => continue,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Never, where nothing will come any more.
async fn receive<T>(from: &mut Option<mpsc::Receiver<T>>) -> T {
    if let Some(receiver) = from {
        if let Some(received) = receiver.recv().await {
            return received;
        }
        *from = None;
    }
    std::future::pending().await
}

fn ended_early(id: &str) -> ClientError {
    let source = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    let during = if id.is_empty() { "an exec".to_owned() } else { format!("the exec {id}") };
    ClientError::broken(&during, source)
}

fn failure(status: &Status) -> ClientError {
    let code = serde_json::from_value(status.reason.clone().into());
    Problem::new(code.unwrap_or(Code::GuestError), status.message.clone()).into()
}

/// The status of a command that may well run on: its guest is away.
fn lost_guest(status: &Status) -> Option<ClientError> {
    let error = failure(status);
    (status.exit_code().is_none() && error.code() == Some(Code::GuestUnavailable)).then_some(error)
}

/// Whether another try may have another end.
fn passes(error: &ClientError) -> bool {
    match error {
        ClientError::Broken { .. } | ClientError::Silent { .. } => true,
        ClientError::Unreachable { source, .. } => {
            source.kind() != std::io::ErrorKind::PermissionDenied
        }
        ClientError::Problem(problem) => {
            matches!(problem.code, Code::GuestUnavailable | Code::Timeout)
        }
        ClientError::Protocol { .. } | ClientError::Address { .. } => false,
    }
}
