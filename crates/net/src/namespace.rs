//! For tests: a network of one's own, so that the machine's stays as it is.

use std::process::{Command, Output, Stdio};
use std::{fs, io, thread};

use inn_host::netns::Netns;

/// With programs that are called in it.
#[derive(Debug)]
pub(crate) struct Namespace(Netns);

impl Namespace {
    /// None, loudly, where this machine gives no namespace.
    pub(crate) fn new(test: &str) -> Option<Self> {
        match Netns::make() {
            Ok(netns) => {
                let namespace = Self(netns);
                namespace.ip("link set lo up");
                Some(namespace)
            }
            Err(error) => {
                println!("SKIPPED {test}: no network namespace: {error}");
                None
            }
        }
    }

    /// On a thread in it; sockets stay in it afterwards.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.0.run(work)
    }

    pub(crate) fn try_program(&self, argv: &[&str], input: &str) -> io::Result<Output> {
        let input = input.to_owned();
        self.run(|| {
            let (program, arguments) = argv.split_first().expect("a program");
            #[expect(clippy::disallowed_methods, reason = "a test in its own namespace")]
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            let stdin = child.stdin.take();
            let writer = thread::spawn(move || {
                use io::Write;
                // It may end without having read all.
                let _ended = stdin.map(|mut stdin| stdin.write_all(input.as_bytes()));
            });
            let output = child.wait_with_output();
            writer.join().expect("it does not panic");
            output
        })
    }

    /// What it writes; it has to succeed.
    pub(crate) fn program(&self, argv: &[&str], input: &str) -> String {
        let output = self.try_program(argv, input).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{argv:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn ip(&self, arguments: &str) {
        let argv: Vec<&str> = ["ip"].into_iter().chain(arguments.split_whitespace()).collect();
        self.program(&argv, "");
    }

    pub(crate) fn nft(&self, script: &str) {
        self.program(&["nft", "-f", "-"], script);
    }

    /// A key below /proc/sys/net.
    pub(crate) fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/net/{key}");
        self.run(|| fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}")));
    }

    /// Two ends of one cable: one here, the other there.
    pub(crate) fn cable(&self, here: &str, other: &Self, there: &str) {
        self.ip(&format!("link add {here} type veth peer name {there}-far"));
        self.ip(&format!("link set {there}-far netns {}", other.0.path()));
        other.ip(&format!("link set {there}-far name {there}"));
        self.ip(&format!("link set {here} up"));
        other.ip(&format!("link set {there} up"));
    }
}
