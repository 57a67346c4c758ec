//! Machines that go on from a saved one, by the best recipe that is known for
//! raw QEMU: its memory in a file on tmpfs that clones map privately
//! (`x-ignore-shared`), the rest by migration to a file, one write of QMP, every
//! file a descriptor or in memory, no address randomisation inside (an emulated
//! CPU would translate each program anew).
//!
//! ```text
//!   template:  boot ─ ready ─ migrate ─ end                   ram.bin, devices, rw.ext4
//!   restore:   spawn ─ migrate-incoming ─ exec
//!   pool:      restored ─ exec, exec, exec ─ stop ┄┄ cont ─ exec
//!   fork:      migrate ─ copy RAM and disk ─ cont │ restore of that
//! ```

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::io::{FdFlags, fcntl_setfd};

use super::{DEADLINE, Ended, MEMORY_MIB, RawQemu, expect_line};
use crate::agent::pause;
use crate::memory::rollup_kib;
use crate::program::{command, timed};

/// Before a clone is put into the pool.
const WARM_UP: usize = 3;

/// Nobody is there: what is behind a card may differ between a machine and its
/// clones only so.
const NOTHING: &str = "hubport,hubid=0";

/// What clones begin from.
pub(crate) struct RawTemplate<'a> {
    qemu: &'a RawQemu,
    /// On tmpfs; removed with this.
    dir: tempfile::TempDir,
}

/// A running one, to be forked.
pub(crate) struct RawParent<'a> {
    qemu: &'a RawQemu,
    dir: tempfile::TempDir,
    machine: Machine,
}

/// How long a fork took, and how long its parent stood still for it.
pub(crate) struct ForkTimes {
    pub(crate) all: Duration,
    pub(crate) stood: Duration,
}

struct Machine {
    _process: Ended,
    qmp: Qmp,
    agent: Agent,
}

/// A clone that was warmed and stopped.
pub(crate) struct Pooled(Machine);

impl<'a> RawTemplate<'a> {
    pub(crate) fn make(qemu: &'a RawQemu) -> anyhow::Result<Self> {
        let dir = tmpfs()?;
        let mut machine = qemu.boot_to_save(dir.path())?;
        machine.qmp.save(&dir.path().join("devices"))?;
        // In order: what its disk was given lies in the file then.
        machine.qmp.order(r#"{"execute":"quit"}"#)?;
        drop(machine);
        Ok(Self { qemu, dir })
    }

    /// From the process's start to the end of a first exec, and its end.
    pub(crate) fn restore_and_exec(&self, name: &str) -> anyhow::Result<Duration> {
        let place = Place::new(self.dir.path(), self.dir.path(), name)?;
        let begin = Instant::now();
        let mut machine = self.qemu.restore(self.dir.path(), &place, true)?;
        machine.agent.exec()?;
        drop(machine);
        Ok(begin.elapsed())
    }

    pub(crate) fn pooled(&self, name: &str) -> anyhow::Result<Pooled> {
        let place = Place::new(self.dir.path(), self.dir.path(), name)?;
        let mut machine = self.qemu.restore(self.dir.path(), &place, true)?;
        for _ in 0..WARM_UP {
            machine.agent.exec()?;
        }
        machine.qmp.order(r#"{"execute":"stop"}"#)?;
        Ok(Pooled(machine))
    }
}

impl Pooled {
    /// Of its own memory and its share of what others have, too.
    pub(crate) fn pss_kib(&self) -> anyhow::Result<u64> {
        rollup_kib(self.0._process.0.id(), "Pss")
    }

    /// To the end of an exec.
    pub(crate) fn go_on_and_exec(mut self) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        self.0.qmp.send(r#"{"execute":"cont"}"#)?;
        self.0.agent.exec()?;
        Ok(begin.elapsed())
    }
}

impl<'a> RawParent<'a> {
    pub(crate) fn boot(qemu: &'a RawQemu) -> anyhow::Result<Self> {
        let dir = tmpfs()?;
        let mut machine = qemu.boot_to_save(dir.path())?;
        machine.agent.exec()?;
        Ok(Self { qemu, dir, machine })
    }

    /// So many at once, from the first word to the end of each one's first exec.
    pub(crate) fn fork_and_exec(&mut self, count: usize) -> anyhow::Result<Vec<ForkTimes>> {
        let begin = Instant::now();
        let saved = tempfile::tempdir_in(self.dir.path())?;
        self.machine.qmp.save(&saved.path().join("devices"))?;
        for file in ["ram.bin", "rw.ext4"] {
            let (from, to) = (self.dir.path().join(file), saved.path().join(file));
            timed(command("cp").arg("--sparse=always").args([from, to]))?;
        }
        self.machine.qmp.order(r#"{"execute":"cont"}"#)?;
        let stood = begin.elapsed();
        let (qemu, saved) = (self.qemu, saved.path());
        std::thread::scope(|scope| {
            let clone = |n: usize| {
                let place = Place::new(saved, saved, &n.to_string())?;
                let mut machine = qemu.restore(saved, &place, true)?;
                machine.agent.exec()?;
                Ok(ForkTimes { all: begin.elapsed(), stood })
            };
            let threads: Vec<_> = (0..count).map(|n| scope.spawn(move || clone(n))).collect();
            let joined = threads
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?);
            joined.collect()
        })
    }
}

/// The files of one clone.
struct Place {
    rw_disk: PathBuf,
    dir: tempfile::TempDir,
}

impl Place {
    fn new(template: &Path, dir: &Path, name: &str) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix(name).tempdir_in(dir)?;
        let rw_disk = dir.path().join("rw.ext4");
        timed(command("cp").arg("--sparse=always").args([&template.join("rw.ext4"), &rw_disk]))?;
        Ok(Self { rw_disk, dir })
    }
}

impl RawQemu {
    /// With its memory in `dir`, to the guest's first word.
    fn boot_to_save(&self, dir: &Path) -> anyhow::Result<Machine> {
        let place = Place { rw_disk: dir.join("rw.ext4"), dir: tempfile::tempdir_in(dir)? };
        timed(command("cp").arg("--sparse=always").args([&self.rw_template, &place.rw_disk]))?;
        let mut machine = self.launch(&place, &dir.join("ram.bin"), NOTHING, None)?;
        machine.agent.expect("ready")?;
        Ok(machine)
    }

    fn restore(&self, saved: &Path, place: &Place, user_network: bool) -> anyhow::Result<Machine> {
        let behind = if user_network { "user" } else { NOTHING };
        let devices = File::open(saved.join("devices"))?;
        self.launch(place, &saved.join("ram.bin"), behind, Some(&devices))
    }

    /// `devices` are what it begins from.
    fn launch(
        &self,
        place: &Place,
        ram: &Path,
        behind: &str,
        devices: Option<&File>,
    ) -> anyhow::Result<Machine> {
        let (dir, begin) = (place.dir.path(), Instant::now());
        let (agent, qmp) = (dir.join("agent.sock"), dir.join("qmp.sock"));
        let mut qemu = self.command(&place.rw_disk, &agent, &dir.join("console.log"), behind)?;
        let share = if devices.is_some() { "off" } else { "on" };
        qemu.args(["-append", &format!("{} norandmaps", self.arguments)]);
        qemu.args(["-machine", "memory-backend=mem0", "-object"]).arg(format!(
            "memory-backend-file,id=mem0,size={MEMORY_MIB}M,share={share},mem-path={}",
            ram.display()
        ));
        qemu.args(["-qmp", &format!("unix:{},server=on,wait=off", qmp.display())]);
        if let Some(devices) = devices {
            qemu.args(["-incoming", "defer"]);
            // QEMU inherits it; so does one that is started beside it, and lets
            // it lie.
            fcntl_setfd(devices, FdFlags::empty())?;
        }
        let process = Ended(qemu.spawn().context("qemu-system-x86_64 did not start")?);
        let mut qmp = Qmp { lines: BufReader::new(connect(&qmp, begin)?) };
        match devices {
            None => qmp.send(r#"{"execute":"qmp_capabilities"}"#)?,
            Some(devices) => qmp.send(&format!(
                r#"{{"execute":"qmp_capabilities"}}{}{{"execute":"migrate-incoming","arguments":{{"uri":"fd:{}"}}}}"#,
                IGNORE_SHARED,
                devices.as_raw_fd()
            ))?,
        }
        let agent = Agent { lines: BufReader::new(connect(&agent, begin)?) };
        Ok(Machine { _process: process, qmp, agent })
    }
}

const IGNORE_SHARED: &str = r#"{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"x-ignore-shared","state":true}]}}"#;

struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    fn send(&mut self, text: &str) -> anyhow::Result<()> {
        Ok(self.lines.get_mut().write_all(text.as_bytes())?)
    }

    /// Sent and answered. Whatever was sent before is answered first, so this
    /// has a name.
    fn order(&mut self, command: &str) -> anyhow::Result<String> {
        let named = command.replacen('{', r#"{"id":"ours","#, 1);
        self.send(&named)?;
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line)? == 0 {
                bail!("QEMU closed its socket at {command}");
            }
            if line.contains(r#""id": "ours""#) {
                if line.contains(r#""error""#) {
                    bail!("QEMU refused {command}: {line}");
                }
                return Ok(line);
            }
        }
    }

    /// It stands still then. Not stopped before, so that its clones start by
    /// themselves.
    fn save(&mut self, devices: &Path) -> anyhow::Result<()> {
        self.order(IGNORE_SHARED)?;
        self.order(
            r#"{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":1099511627776}}"#,
        )?;
        let uri = format!("exec:cat > {}", devices.display());
        self.order(&format!(r#"{{"execute":"migrate","arguments":{{"uri":"{uri}"}}}}"#))?;
        let begin = Instant::now();
        loop {
            let state = self.order(r#"{"execute":"query-migrate"}"#)?;
            if state.contains(r#""status": "completed""#) {
                return Ok(());
            }
            if state.contains(r#""status": "failed""#) || begin.elapsed() > DEADLINE {
                bail!("QEMU did not save: {state}");
            }
            pause(Duration::from_micros(200));
        }
    }
}

struct Agent {
    lines: BufReader<UnixStream>,
}

impl Agent {
    fn exec(&mut self) -> anyhow::Result<()> {
        self.lines.get_mut().write_all(b"/bin/true\n")?;
        self.expect("exit 0")
    }

    fn expect(&mut self, word: &str) -> anyhow::Result<()> {
        expect_line(&mut self.lines, word)
    }
}

fn connect(socket: &Path, begin: Instant) -> anyhow::Result<UnixStream> {
    let stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(e) if begin.elapsed() > DEADLINE => return Err(e).context("QEMU made no socket"),
            Err(_) => pause(Duration::from_micros(200)),
        }
    };
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

fn tmpfs() -> anyhow::Result<tempfile::TempDir> {
    let made = tempfile::Builder::new().prefix("inn-bench-").tempdir_in("/dev/shm");
    made.context("no directory in /dev/shm")
}
