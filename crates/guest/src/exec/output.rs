//! What a process says, on its way to whoever listens.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use inn_guest_proto::MAX_DATA;
use inn_guest_proto::wire::{Channel, Control, control, end::Outcome};
use tokio::sync::watch;
use tokio::time::sleep;

use super::state::ExecState;
use super::{detach, input};
use crate::os::pipes::Drain;
use crate::stream::{Gone, Stream};

/// After the process's end somebody it left behind may hold its output open;
/// what such a one says later than this is not the process's.
const AFTER_END: Duration = Duration::from_millis(100);

/// The most that a pipe holds (pipe(7), /proc/sys/fs/pipe-max-size): what is
/// read after the end beyond this was written after the end.
const PIPE_HOLDS: usize = 1024 * 1024;

/// How much of an output is read at once at first: most programs say little,
/// and memory for more comes with more.
const FIRST_READ: usize = 4096;

/// Reads one output until its end: the last writer is gone, or the process has
/// ended and what it wrote is read. It goes to the ring, where whoever follows
/// finds it and nobody need listen; to the outbox of one that is lasting, when
/// there is room; or else to `owner`, at the pace of its credit.
pub(super) async fn pump(
    exec: &ExecState,
    drain: Drain,
    channel: Channel,
    owner: Option<&Stream>,
    exit: watch::Receiver<bool>,
) {
    let mut buffer = BytesMut::new();
    let mut want = FIRST_READ;
    let mut after_end = 0;
    let mut cutoff = pin!({
        let mut exit = exit.clone();
        async move {
            if exit.wait_for(|ended| *ended).await.is_ok() {
                sleep(AFTER_END).await;
            }
        }
    });
    loop {
        // Both arms may be cancelled: what is read is in the buffer. What can
        // be read goes first.
        let count = tokio::select! {
            biased;
            read = drain.read(&mut buffer, want) => match read {
                Ok(count) if count > 0 => count,
                _ => return,
            },
            () = &mut cutoff => return,
        };
        if *exit.borrow() {
            after_end += count;
        }
        let put = put(exec, channel, buffer.split().freeze(), owner).await;
        if put.is_err() || after_end > PIPE_HOLDS {
            return;
        }
        if count == want {
            want = MAX_DATA.min(want * 4);
        }
    }
}

async fn put(
    exec: &ExecState,
    channel: Channel,
    mut bytes: Bytes,
    owner: Option<&Stream>,
) -> Result<(), Gone> {
    if let Some(lasting) = &exec.lasting {
        // Before the offset is given out: two outputs wait here.
        lasting.room().await?;
    }
    let offset = exec.output.get();
    let room = exec.limit.map_or(u64::MAX, |limit| limit.saturating_sub(offset));
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    if bytes.len() > room {
        exec.truncated.set(exec.truncated.get() + (bytes.len() - room) as u64);
        bytes.truncate(room);
    }
    if bytes.is_empty() {
        // Whoever floods past its limit still lets the others have their turn.
        tokio::task::yield_now().await;
        return Ok(());
    }
    exec.output.set(offset + bytes.len() as u64);
    if let Some(stream) = owner {
        return stream.send(channel, bytes, offset).await;
    }
    if let Some(ring) = &exec.ring {
        ring.borrow_mut().push(channel, &bytes);
    } else if let Some(lasting) = &exec.lasting {
        lasting.outbox.borrow_mut().push(channel, bytes);
    }
    exec.news.notify_waiters();
    // The next reader of the ring has its turn before the next write.
    tokio::task::yield_now().await;
    Ok(())
}

/// What a follower wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct From {
    pub(super) offset: u64,
    /// Notes from this one on.
    pub(super) notes: Option<u64>,
}

/// Sends what the ring holds, and then what comes, until the exec has ended or
/// the host does not listen.
pub(super) fn follow(exec: Rc<ExecState>, stream: Stream, from: From) {
    let stream = Rc::new(stream);
    input::feed(&exec, &stream);
    detach(async move {
        let steering = async {
            while let Ok(control) = stream.control().await {
                steer(&exec, &control);
            }
        };
        // Whichever ends first: cancelled while waiting, nothing is lost.
        tokio::select! {
            () = steering => {}
            _gone = send_all(&exec, &stream, from) => {}
        }
    });
}

async fn send_all(exec: &ExecState, stream: &Stream, mut from: From) -> Result<(), Gone> {
    loop {
        match next_piece(exec, &mut from) {
            Some((channel, bytes, at)) => stream.send(channel, bytes, at).await?,
            None => {
                if let Some(end) = exec.ended.get() {
                    stream.end(Outcome::ExecEnd(end));
                    return Ok(());
                }
                exec.news.notified().await;
            }
        }
    }
}

/// Output up to the next note's place, then the note.
fn next_piece(exec: &ExecState, from: &mut From) -> Option<(Channel, Bytes, u64)> {
    let ring = exec.ring.as_ref()?.borrow();
    let note = from.notes.and_then(|number| exec.notes.borrow().read(number));
    let here = from.offset.max(ring.start());
    let limit = match note {
        Some((number, at, note)) if at <= here => {
            from.notes = Some(number + 1);
            return Some((Channel::Notes, note.to_bytes(), 0));
        }
        Some((_, at, _)) => usize::try_from(at - here).unwrap_or(usize::MAX).min(MAX_DATA),
        None => MAX_DATA,
    };
    let (at, channel, bytes) = ring.read(from.offset, limit)?;
    from.offset = at + bytes.len() as u64;
    Some((channel, bytes, at))
}

/// A signal, a new size of the terminal, or what the host has taken.
pub(super) fn steer(exec: &ExecState, control: &Control) {
    match &control.action {
        Some(control::Action::Signal(signal)) => {
            // A number that there is not, or a process that is gone.
            let _ignored = exec.signal(*signal);
        }
        Some(control::Action::Resize(size)) => exec.resize(size),
        Some(control::Action::OutputTaken(offset)) => {
            if let Some(lasting) = &exec.lasting {
                // An offset that makes no sense changes nothing.
                let _taken = lasting.taken(*offset);
            }
        }
        None => {}
    }
}
