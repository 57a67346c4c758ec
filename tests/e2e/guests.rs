//! Three booted guests that many tests share, one for each way an agent runs
//! and is reached. None of these tests stops one of them or kills their agent.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use inn_tests::fixtures::Debian;
use inn_tests::{Host, Inn, Output, host, wait};
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// PID 1 of a microVM, over virtio-serial.
    InitSerial,
    /// PID 1 of a microVM, over vsock.
    InitVsock,
    /// A service of a Debian that has booted itself, over virtio-serial.
    Service,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::InitSerial, Self::InitVsock, Self::Service];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InitSerial => "init-serial",
            Self::InitVsock => "init-vsock",
            Self::Service => "service",
        }
    }

    fn slot(self) -> usize {
        Self::ALL.iter().position(|k| *k == self).expect("ALL has every kind")
    }

    pub(crate) fn is_init(self) -> bool {
        self != Self::Service
    }
}

/// One of the three, running.
#[derive(Clone, Copy)]
pub(crate) struct Guest {
    pub(crate) host: &'static Host,
    pub(crate) kind: Kind,
}

/// An emulated machine of two CPUs, of which the other tests leave little.
pub(crate) const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// For agents that wait for emulated guests on a busy host.
pub(crate) const PATIENT: &str = "start_deadline = \"150s\"\n";

static HOST: OnceLock<Mutex<Option<&'static Host>>> = OnceLock::new();
static TURNS: [RwLock<()>; 3] = [const { RwLock::new(()) }; 3];
static BOOTED: [OnceLock<Arc<Output>>; 3] = [const { OnceLock::new() }; 3];

/// Runs one test on one kind of guest, beside others, or says that it cannot.
pub(crate) fn together(kind: Kind, name: &str, test: fn(&Guest)) {
    // A test that has failed has left nothing that others could not bear.
    let _turn = TURNS[kind.slot()].read().unwrap_or_else(PoisonError::into_inner);
    run(kind, name, test);
}

/// The same while no other test is at work in that guest.
pub(crate) fn alone(kind: Kind, name: &str, test: fn(&Guest)) {
    let _turn = TURNS[kind.slot()].write().unwrap_or_else(PoisonError::into_inner);
    run(kind, name, test);
}

fn run(kind: Kind, name: &str, test: fn(&Guest)) {
    match guest(kind) {
        Ok(guest) => test(&guest),
        Err(reason) => println!("SKIPPED {name}: {reason}"),
    }
}

/// Boots all that there are, so that the first tests need not wait for it.
pub(crate) fn boot_ahead() {
    for kind in Kind::ALL {
        std::thread::spawn(move || guest(kind).map(|guest| guest.vm()));
    }
}

/// Boots it unless it runs; an error says why this machine has none.
pub(crate) fn guest(kind: Kind) -> Result<Guest, &'static str> {
    if kind == Kind::InitVsock && !host::finds_program("vhost-device-vsock") {
        return Err("there is no vhost-device-vsock, which `scripts/test tools` installs");
    }
    let guest = Guest { host: self::host(), kind };
    let booted =
        BOOTED[kind.slot()].get_or_init(|| Arc::new(guest.create().limit(BOOT_LIMIT).output()));
    assert_eq!(booted.code, Some(0), "{booted}");
    Ok(guest)
}

fn host() -> &'static Host {
    let shared = HOST.get_or_init(|| {
        let host = Host::bare();
        // Readings often, so that no test waits long for one.
        let config = format!("{PATIENT}telemetry.interval = \"1s\"\n");
        std::fs::write(host.config(), config).unwrap();
        host.start_agent();
        host.import("mini");
        Mutex::new(Some(Box::leak(Box::new(host))))
    });
    shared.lock().unwrap().expect("the suite has not ended")
}

/// Ends them, if any test has used one, and asserts that they leave nothing.
pub(crate) fn finish() {
    if let Some(host) = HOST.get().and_then(|shared| shared.lock().unwrap().take()) {
        host.end_and_check();
    }
}

/// `vm create` of a Debian with this name.
pub(crate) fn create_debian(host: &Host, name: &str) -> Inn {
    let debian = Debian::get(host::binary());
    host.inn(["vm", "create", "--name", name, "--cpus", "2", "--memory", "512MiB"])
        .args(["--disk-image".as_ref(), debian.raw.as_os_str()])
        .limit(BOOT_LIMIT)
}

impl Guest {
    fn create(&self) -> Inn {
        let name = self.vm();
        match self.kind {
            Kind::Service => create_debian(self.host, name).args(["--persist"]),
            kind => {
                let channel = if kind == Kind::InitVsock { "vsock" } else { "serial" };
                let image = ["vm", "create", "--image", "mini", "--name", name];
                self.host.inn(image).args(["--channel", channel, "--persist"])
            }
        }
    }

    pub(crate) fn vm(&self) -> &'static str {
        self.kind.name()
    }

    /// `VM:PATH`
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}:{path}", self.vm())
    }

    /// `inn vm ARGS`
    pub(crate) fn inn(&self, args: &[&str]) -> Inn {
        self.host.inn(["vm"]).args(args)
    }

    /// `inn vm guest VERB VM ARGS`
    pub(crate) fn change(&self, verb: &str, args: &[&str]) -> Inn {
        self.inn(&["guest", verb, self.vm()]).args(args)
    }

    /// `inn vm exec VM -- ARGV`
    pub(crate) fn exec(&self, argv: &[&str]) -> Inn {
        self.inn(&["exec", self.vm(), "--"]).args(argv)
    }

    /// What a shell's script prints there, which has to succeed.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        self.exec(&["sh", "-c", script]).ok()
    }

    /// A directory of the test's own in the guest.
    pub(crate) fn dir(&self, name: &str) -> String {
        let path = format!("/srv/{name}");
        self.inn(&["files", "mkdir", "-p", &self.at(&path)]).ok();
        path
    }

    /// The same on the host.
    pub(crate) fn host_dir(&self, name: &str) -> std::path::PathBuf {
        let path = self.host.home().join(format!("{name}-{}", self.vm()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[track_caller]
    pub(crate) fn show(&self) -> Value {
        self.host.show(self.vm())
    }

    /// What the guest tells now.
    #[track_caller]
    pub(crate) fn sample(&self) -> Value {
        let stats = self.inn(&["stats", "-o", "json", "--fresh", self.vm()]).json();
        stats["now"].clone()
    }
}

/// Waits until the VM's guest answers, and gives what is known of the VM.
#[track_caller]
pub(crate) fn until_ready(host: &Host, vm: &str) -> Value {
    wait::until("the guest answers", || {
        let shown = host.show(vm);
        (shown["guest"]["link"] == "ready").then_some(shown)
    })
}
