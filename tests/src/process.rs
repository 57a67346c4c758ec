//! One invocation of `inn`: arguments, stdin, a deadline, and what came out.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// An invocation still to be made.
#[derive(Debug)]
#[must_use]
pub struct Inn {
    command: Command,
    shown: String,
    stdin: Option<Vec<u8>>,
    limit: Duration,
}

impl Inn {
    #[expect(clippy::disallowed_methods, reason = "tests start the program under test")]
    pub fn new(program: &Path, args: Vec<OsString>) -> Self {
        let shown = args.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let mut command = Command::new(program);
        command.args(args).env_clear();
        Self { command, shown: format!("inn {shown}"), stdin: None, limit: wait::PATIENCE }
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        for arg in args {
            self.shown = format!("{} {}", self.shown, arg.as_ref().to_string_lossy());
            self.command.arg(arg);
        }
        self
    }

    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Has another program run it, whose last arguments are its command line.
    #[expect(clippy::disallowed_methods, reason = "tests start the program under test")]
    pub fn under(mut self, program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).arg(self.command.get_program()).args(self.command.get_args());
        command.env_clear();
        for (key, value) in self.command.get_envs() {
            command.env(key, value.unwrap_or_default());
        }
        if let Some(dir) = self.command.get_current_dir() {
            command.current_dir(dir);
        }
        self.command = command;
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn output(mut self) -> Output {
        let stdin = self.stdin.take();
        let limit = self.limit;
        let mut running = self.start();
        if let Some(bytes) = stdin {
            running.write(&bytes);
        }
        running.close_stdin();
        running.wait(limit)
    }

    /// Runs it to its end, which has to be 0, and gives its stdout back.
    #[track_caller]
    pub fn ok(self) -> String {
        let output = self.output();
        assert!(output.code == Some(0), "expected success: {output}");
        output.stdout
    }

    /// Runs it to its end and reads its stdout as JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON ({e}): {text}"))
    }

    /// Runs it to its end, which has to be a failure as every failure should
    /// be: this exit code and one line on stderr with each of `words` in it.
    #[track_caller]
    pub fn refused(self, code: i32, words: &[&str]) -> Output {
        let output = self.output();
        assert_eq!(output.code, Some(code), "{output}");
        for word in words {
            assert!(output.stderr.contains(word), "stderr lacks {word:?}: {output}");
        }
        assert!(!output.stderr.contains("panicked"), "{output}");
        let sentence = output.stderr.lines().last().unwrap_or_default();
        assert!(sentence.starts_with("inn: ") || code == 2, "no sentence at the end: {output}");
        let parts: Vec<_> = sentence.trim_start_matches("inn: ").split(": ").collect();
        let repeated = parts.windows(2).any(|pair| pair[0] == pair[1]);
        assert!(!repeated, "a sentence says the same twice: {output}");
        output
    }

    /// Starts it and leaves it running. Its stdin stays open.
    #[track_caller]
    pub fn start(mut self) -> Running {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{} did not start: {e}", self.shown));
        let stdin = child.stdin.take();
        let (stdout, live) = collect(child.stdout.take().unwrap());
        let (stderr, _) = collect(child.stderr.take().unwrap());
        Running { child, shown: self.shown, stdin, stdout, stderr, live, seen: Vec::new() }
    }
}

/// Chunks of output that nobody has asked for yet; a writer waits beyond that.
const LIVE_CHUNKS: usize = 1024;

type Collector = JoinHandle<Vec<u8>>;

/// Reads to the end on a thread of its own, and passes chunks on as they come.
fn collect(mut from: impl Read + Send + 'static) -> (Collector, Receiver<Vec<u8>>) {
    let (sender, receiver) = sync_channel(LIVE_CHUNKS);
    let collector = std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut chunk = vec![0; 65536];
        while let Ok(n @ 1..) = from.read(&mut chunk) {
            all.extend_from_slice(&chunk[..n]);
            // Whoever watches may have stopped; a full queue means that
            // nobody watches.
            let _ = sender.try_send(chunk[..n].to_vec());
        }
        all
    });
    (collector, receiver)
}

/// An invocation that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    shown: String,
    stdin: Option<ChildStdin>,
    stdout: Collector,
    stderr: Collector,
    live: Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("stdin is open until close_stdin");
        // The program may end without reading it all, as `head` does.
        let _ = stdin.write_all(bytes).and_then(|()| stdin.flush());
    }

    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits until `text` has come out of stdout.
    #[track_caller]
    pub fn until_stdout(&mut self, text: &str) {
        assert!(
            self.stdout_has(text, wait::PATIENCE),
            "{}: stdout never had {text:?}, only {:?}",
            self.shown,
            String::from_utf8_lossy(&self.seen)
        );
    }

    /// Whether `text` comes out of stdout within this time.
    pub fn stdout_has(&mut self, text: &str, within: Duration) -> bool {
        let limit = std::time::Instant::now() + within;
        while !String::from_utf8_lossy(&self.seen).contains(text) {
            let left = limit.saturating_duration_since(std::time::Instant::now());
            match self.live.recv_timeout(left) {
                Ok(chunk) => self.seen.extend(chunk),
                Err(_) => return false,
            }
        }
        true
    }

    /// What has come out of stdout and was waited for.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        // It may have ended by itself in the meantime; its end is looked at later.
        let _ = kill_process(pid, signal);
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for the end; kills it and panics past the limit.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Output {
        self.stdin = None;
        let ended = wait::within(limit, || self.child.try_wait().unwrap());
        if ended.is_none() {
            let _ = self.child.kill();
        }
        let status = self.child.wait().unwrap();
        let output = Output {
            shown: self.shown,
            code: status.code(),
            status,
            stdout: text(self.stdout),
            stderr: text(self.stderr),
        };
        assert!(ended.is_some(), "still running after {limit:?}: {output}");
        output
    }
}

fn text(collector: Collector) -> String {
    String::from_utf8_lossy(&collector.join().unwrap()).into_owned()
}

/// How an invocation ended and what it printed.
pub struct Output {
    shown: String,
    status: ExitStatus,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Fails the test unless it ended with this code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shown, status, stdout, stderr, .. } = self;
        write!(f, "`{shown}` ended with {status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}
