//! Looks after one VMM: its console, and the word of how it is.
//!
//! ```text
//!                 a byte on `started`          the VMM has ended, its console is read
//!   Starting ──────────────────────▶ Running ──────────────────────────────▶ Ended
//!       └────────────────────────────────────────────────────────────────────▲ │
//!                     any ──quit──▶ the VMM is killed, its console read ──▶ exit ◀┘ quit
//! ```
//!
//! One thread, which waits on everything at once and never on any one: all
//! descriptors are non-blocking.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid,
};

use super::end::said;
use super::protocol::LONGEST_REPORT;
use super::{QUIT, Report, VmmEnd};

/// Clients of one socket at a time: agents, or people at a console. More are
/// turned away.
const MOST_CLIENTS: usize = 8;

/// A serial port is read in small pieces, so that one that floods does not keep
/// the control socket waiting.
const PIECE: usize = 4096;

/// What is kept of a console, to tell ends apart: the registers and the call trace
/// of a panic fit.
const HEARD: usize = 8 << 10;

/// What somebody has typed and the guest has not taken yet.
const MOST_TYPED: usize = 4096;

/// What the keeper begins with.
#[derive(Debug)]
pub struct Keeper {
    pub vm: String,
    pub child: Pid,
    /// Sockets that listen already.
    pub control: OwnedFd,
    pub console: OwnedFd,
    /// The pipe of the console's log.
    pub console_log: OwnedFd,
    /// What the guest prints, and what somebody types for it.
    pub output: OwnedFd,
    pub input: OwnedFd,
    /// Where a child that is not the VMM itself writes how that one ended, as
    /// JSON, before it ends too.
    pub status: Option<OwnedFd>,
}

impl Keeper {
    /// Until somebody says that it may go. The machine runs once there is a byte
    /// on `started`, or at once.
    pub fn keep(self, started: Option<OwnedFd>) -> io::Result<()> {
        let Self { vm, child, control, console, console_log, output, input, status } = self;
        let vmm = pidfd_open(child, PidfdFlags::empty())?;
        let (control, console) = (UnixListener::from(control), UnixListener::from(console));
        // As of now it is this process that listens, for whoever asks the kernel
        // (unix(7), SO_PEERCRED).
        rustix::net::listen(&control, 16)?;
        for fd in [control.as_fd(), console.as_fd(), console_log.as_fd(), output.as_fd()] {
            never_blocks(fd)?;
        }
        never_blocks(&input)?;
        for fd in started.iter().chain(&status) {
            never_blocks(fd)?;
        }
        let keeping = Keeping {
            vm,
            child,
            vmm: Some(vmm),
            runs: started.is_none(),
            started: started.map(File::from),
            status: status.map(File::from),
            waited: None,
            control,
            clients: Vec::new(),
            console,
            viewers: Vec::new(),
            output: Some(output.into()),
            heard: Vec::new(),
            log: Outlet { to: Some(console_log.into()), pending: Vec::new() },
            typed: Outlet { to: Some(input.into()), pending: Vec::new() },
            quitting: false,
        };
        keeping.run()
    }
}

struct Client {
    stream: UnixStream,
    told_running: bool,
    told_end: bool,
    said: Vec<u8>,
}

/// Takes what it can, and keeps the rest.
struct Outlet {
    /// `None` once nobody reads there.
    to: Option<File>,
    pending: Vec<u8>,
}

impl Outlet {
    fn put(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(to) = &mut self.to
            && !self.pending.is_empty()
        {
            match to.write(&self.pending) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.to = None,
            }
        }
        self.pending.clear();
    }

    fn is_full(&self) -> bool {
        !self.pending.is_empty()
    }
}

/// What can be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Vmm,
    Started,
    Control,
    Console,
    Output,
    Log,
    Typed,
    Client(usize),
    Viewer(usize),
}

struct Keeping {
    vm: String,
    child: Pid,
    /// `None` once it was waited for.
    vmm: Option<OwnedFd>,
    started: Option<File>,
    runs: bool,
    status: Option<File>,
    waited: Option<VmmEnd>,
    control: UnixListener,
    clients: Vec<Client>,
    console: UnixListener,
    viewers: Vec<UnixStream>,
    /// `None` once the VMM has closed it.
    output: Option<File>,
    /// The last of it.
    heard: Vec<u8>,
    log: Outlet,
    typed: Outlet,
    quitting: bool,
}

impl Keeping {
    fn run(mut self) -> io::Result<()> {
        loop {
            self.report();
            if self.quitting && self.is_over() && !self.log.is_full() {
                return Ok(());
            }
            for source in self.ready()? {
                self.handle(source)?;
            }
        }
    }

    /// Ended, with nothing of its console left in the pipe.
    fn is_over(&self) -> bool {
        self.waited.is_some() && self.output.is_none()
    }

    fn ready(&self) -> io::Result<Vec<Source>> {
        let mut all: Vec<(Source, BorrowedFd<'_>, PollFlags)> = Vec::new();
        let mut on = |source, fd, flags| all.push((source, fd, flags));
        if let Some(vmm) = &self.vmm {
            on(Source::Vmm, vmm.as_fd(), PollFlags::IN);
        }
        if let Some(started) = &self.started {
            on(Source::Started, started.as_fd(), PollFlags::IN);
        }
        on(Source::Control, self.control.as_fd(), PollFlags::IN);
        on(Source::Console, self.console.as_fd(), PollFlags::IN);
        match (&self.output, &self.log.to) {
            (_, Some(log)) if self.log.is_full() => on(Source::Log, log.as_fd(), PollFlags::OUT),
            (Some(output), _) => on(Source::Output, output.as_fd(), PollFlags::IN),
            (None, _) => {}
        }
        let typed_much = self.typed.is_full();
        if let Some(input) = self.typed.to.as_ref().filter(|_| typed_much) {
            on(Source::Typed, input.as_fd(), PollFlags::OUT);
        }
        for (at, client) in self.clients.iter().enumerate() {
            on(Source::Client(at), client.stream.as_fd(), PollFlags::IN);
        }
        for (at, viewer) in self.viewers.iter().enumerate().filter(|_| !typed_much) {
            on(Source::Viewer(at), viewer.as_fd(), PollFlags::IN);
        }
        let mut fds: Vec<PollFd<'_>> =
            all.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let ready = all.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        // Those with a place in a list from its end, so that one that goes
        // leaves the places of the others.
        Ok(ready.map(|((source, ..), _)| *source).rev().collect())
    }

    fn handle(&mut self, source: Source) -> io::Result<()> {
        match source {
            Source::Vmm => self.reap(),
            Source::Started => {
                let mut byte = [0];
                let read = self.started.as_mut().map_or(Ok(0), |started| started.read(&mut byte));
                self.runs |= matches!(read, Ok(1));
                self.started = None;
                Ok(())
            }
            Source::Control => {
                if let Some(stream) = accepted(&self.control, self.clients.len()) {
                    let said = Vec::new();
                    let (told_running, told_end) = (false, false);
                    self.clients.push(Client { stream, told_running, told_end, said });
                }
                Ok(())
            }
            Source::Console => {
                self.viewers.extend(accepted(&self.console, self.viewers.len()));
                Ok(())
            }
            Source::Output => {
                self.console_says();
                Ok(())
            }
            Source::Log => {
                self.log.flush();
                Ok(())
            }
            Source::Typed => {
                self.typed.flush();
                Ok(())
            }
            Source::Client(at) => {
                match client_says(&mut self.clients[at]) {
                    Asked::Nothing => {}
                    Asked::Gone => drop(self.clients.swap_remove(at)),
                    Asked::Quit => {
                        self.quitting = true;
                        if let Some(vmm) = &self.vmm {
                            pidfd_send_signal(vmm, Signal::KILL)?;
                        }
                    }
                }
                Ok(())
            }
            Source::Viewer(at) => {
                let mut bytes = [0; MOST_TYPED];
                match self.viewers[at].read(&mut bytes) {
                    Ok(0) => drop(self.viewers.swap_remove(at)),
                    Ok(read) => self.typed.put(&bytes[..read]),
                    Err(error) if is_passing(&error) => {}
                    Err(_) => drop(self.viewers.swap_remove(at)),
                }
                Ok(())
            }
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        let status = match waitpid(Some(self.child), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => status,
            Ok(None) | Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.vmm = None;
        self.waited = Some(self.told().unwrap_or_else(|| VmmEnd::of(status)));
        Ok(())
    }

    /// Of a VMM that was its child's.
    fn told(&mut self) -> Option<VmmEnd> {
        let mut text = Vec::new();
        self.status.take()?.take(LONGEST_REPORT as u64).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn console_says(&mut self) {
        let Some(output) = &mut self.output else { return };
        let mut bytes = [0; PIECE];
        let read = match output.read(&mut bytes) {
            Ok(0) => return self.output = None,
            Ok(read) => read,
            Err(error) if is_passing(&error) => return,
            Err(_) => return self.output = None,
        };
        let bytes = &bytes[..read];
        self.heard.extend_from_slice(bytes);
        let old = self.heard.len().saturating_sub(HEARD);
        self.heard.drain(..old);
        self.log.put(bytes);
        // Who looks on and is too slow misses something, and keeps nobody
        // waiting; whoever has gone is found by reading.
        for viewer in &mut self.viewers {
            let _missed = viewer.write(bytes);
        }
    }

    /// Tells each client what it does not know yet.
    fn report(&mut self) {
        let end = if self.is_over() { self.waited } else { None };
        if !self.runs && end.is_none() {
            return;
        }
        let line = |end: Option<VmmEnd>| {
            let said = end.and_then(|_| said(&self.heard));
            let report = Report { vm: self.vm.clone(), end, said };
            let mut line = serde_json::to_vec(&report).unwrap_or_default();
            line.push(b'\n');
            line
        };
        let (running, ended) = (line(None), end.map(|end| line(Some(end))));
        for client in &mut self.clients {
            // A client that does not read two lines has no use for them.
            if self.runs && !client.told_running {
                client.told_running = true;
                if ended.is_none() {
                    let _gone = client.stream.write_all(&running);
                }
            }
            if let Some(ended) = &ended
                && !client.told_end
            {
                client.told_end = true;
                let _gone = client.stream.write_all(ended);
            }
        }
    }
}

enum Asked {
    Nothing,
    Quit,
    Gone,
}

fn client_says(client: &mut Client) -> Asked {
    let mut bytes = [0; QUIT.len()];
    match client.stream.read(&mut bytes) {
        Ok(0) => Asked::Gone,
        Ok(read) => {
            client.said.extend_from_slice(&bytes[..read]);
            match client.said.as_slice() {
                QUIT => Asked::Quit,
                said if QUIT.starts_with(said) => Asked::Nothing,
                _ => Asked::Gone,
            }
        }
        Err(error) if is_passing(&error) => Asked::Nothing,
        Err(_) => Asked::Gone,
    }
}

fn accepted(listener: &UnixListener, clients: usize) -> Option<UnixStream> {
    let (stream, _) = listener.accept().ok()?;
    stream.set_nonblocking(true).ok()?;
    (clients < MOST_CLIENTS).then_some(stream)
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Makes a descriptor one that never blocks.
pub fn never_blocks(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_word_ends_it() {
        let ask = |bytes: &[u8]| {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            theirs.write_all(bytes).unwrap();
            drop(theirs);
            let said_before = Vec::new();
            let mut client =
                Client { stream: ours, told_running: false, told_end: false, said: said_before };
            client_says(&mut client)
        };
        assert!(matches!(ask(QUIT), Asked::Quit));
        assert!(matches!(ask(b"qu"), Asked::Nothing));
        assert!(matches!(ask(b"quiet"), Asked::Gone));
        assert!(matches!(ask(b""), Asked::Gone));
    }

    #[test]
    fn what_nobody_takes_is_kept_until_they_have_gone() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        never_blocks(&write).unwrap();
        let mut outlet = Outlet { to: Some(write.into()), pending: Vec::new() };
        while !outlet.is_full() {
            outlet.put(&[b'x'; 4096]);
        }
        let mut some = vec![0; 8192];
        let taken = rustix::io::read(&read, &mut some).unwrap();
        assert!(taken > 0);
        outlet.flush();
        assert!(!outlet.is_full());
        drop(read);
        outlet.put(b"y");
        assert!(!outlet.is_full() && outlet.to.is_none());
    }
}
