//! libvirt's own library, opened at run time, with safe faces for the few of
//! its calls that are made. The one place of this crate that is `unsafe`.
//!
//! Its calls block, and may be made by any thread: connections and domains are
//! counted and locked by the library itself (docs/api.rst in libvirt). Events
//! come on a thread of their own, which lives as long as the process, as the
//! library does.

use std::ffi::{CStr, CString, c_char, c_int, c_longlong, c_uint, c_ulong, c_void};
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

mod networks;

use inn_units::Architecture;
use networks::{RawInterface, RawLease};

use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_LAZY};

pub(crate) const LIBRARY: &str = "libvirt.so.0";
const QEMU_LIBRARY: &str = "libvirt-qemu.so.0";

/// What distributions link the library with beside what every system has:
/// loaded first where all of them are in a directory of their own.
const BESIDE: [&str; 4] = ["libyajl.so.2", "libtirpc.so.3", "libssh.so.4", "libssh2.so.1"];

/// Between two turns of the event loop, when one has failed.
const BREATH: Duration = Duration::from_millis(100);

/// Seconds between two keepalives, and how many may go unanswered: a daemon
/// that is silent for longer is taken for dead, which ends the calls that wait
/// for it (docs of virConnectSetKeepAlive).
const KEEPALIVE: (c_int, c_uint) = (5, 3);

// include/libvirt/libvirt-domain.h
const START_PAUSED: c_uint = 1 << 0;
const START_AUTODESTROY: c_uint = 1 << 1;
const UNDEFINE_ALL: c_uint = 1 | 2 | 4 | 16;
const POWER_BUTTON: c_uint = 1 << 0;
const RESIZE_BYTES: c_uint = 1 << 0;
const METADATA_ELEMENT: c_int = 2;
const EVENT_LIFECYCLE: c_int = 0;

// include/libvirt/virterror.h
const NO_DOMAIN: c_int = 42;
const OPERATION_INVALID: c_int = 55;
const NO_METADATA: c_int = 80;

type RawConnection = *mut c_void;
type RawDomain = *mut c_void;
type RawNetwork = *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type OnLifecycle =
    unsafe extern "C" fn(RawConnection, RawDomain, c_int, c_int, *mut c_void) -> c_int;
type OnMonitor = unsafe extern "C" fn(
    RawConnection,
    RawDomain,
    *const c_char,
    c_longlong,
    c_uint,
    *const c_char,
    *mut c_void,
);
type OnClose = unsafe extern "C" fn(RawConnection, c_int, *mut c_void);
type OnError = unsafe extern "C" fn(*mut c_void, *const RawError);

/// The beginning of virError, the only part that is read.
#[repr(C)]
struct RawError {
    code: c_int,
    domain: c_int,
    message: *const c_char,
}

/// virDomainBlockInfo.
#[repr(C)]
#[derive(Default)]
struct RawBlockInfo {
    capacity: u64,
    allocation: u64,
    physical: u64,
}

macro_rules! functions {
    ($($function:ident: fn($($argument:ty),*) -> $result:ty;)*) => {
        #[allow(non_snake_case)]
        struct Functions {
            $($function: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Functions {
            fn find(core: &Handle, qemu: &Handle) -> Result<Self, libloading::Error> {
                Ok(Self {
                    $($function: {
                        let name = concat!(stringify!($function), "\0").as_bytes();
                        // SAFETY: the types are those of libvirt's headers, whose
                        // functions never change (docs/api.rst: the ABI is kept).
                        *unsafe { core.get(name).or_else(|_| qemu.get(name)) }?
                    },)*
                })
            }
        }
    };
}

functions! {
    virInitialize: fn() -> c_int;
    virSetErrorFunc: fn(*mut c_void, OnError) -> ();
    virGetLastError: fn() -> *const RawError;
    virEventRegisterDefaultImpl: fn() -> c_int;
    virEventRunDefaultImpl: fn() -> c_int;
    virConnectOpen: fn(*const c_char) -> RawConnection;
    virConnectClose: fn(RawConnection) -> c_int;
    virConnectIsAlive: fn(RawConnection) -> c_int;
    virConnectSetKeepAlive: fn(RawConnection, c_int, c_uint) -> c_int;
    virConnectGetType: fn(RawConnection) -> *const c_char;
    virConnectGetLibVersion: fn(RawConnection, *mut c_ulong) -> c_int;
    virConnectRegisterCloseCallback: fn(RawConnection, OnClose, *mut c_void, Free) -> c_int;
    virConnectUnregisterCloseCallback: fn(RawConnection, OnClose) -> c_int;
    virConnectDomainEventRegisterAny:
        fn(RawConnection, RawDomain, c_int, OnLifecycle, *mut c_void, Free) -> c_int;
    virConnectDomainEventDeregisterAny: fn(RawConnection, c_int) -> c_int;
    virConnectGetDomainCapabilities: fn(
        RawConnection, *const c_char, *const c_char, *const c_char, *const c_char, c_uint
    ) -> *mut c_char;
    virConnectListAllDomains: fn(RawConnection, *mut *mut RawDomain, c_uint) -> c_int;
    virDomainDefineXML: fn(RawConnection, *const c_char) -> RawDomain;
    virDomainLookupByName: fn(RawConnection, *const c_char) -> RawDomain;
    virDomainFree: fn(RawDomain) -> c_int;
    virDomainGetName: fn(RawDomain) -> *const c_char;
    virDomainGetState: fn(RawDomain, *mut c_int, *mut c_int, c_uint) -> c_int;
    virDomainGetMetadata: fn(RawDomain, c_int, *const c_char, c_uint) -> *mut c_char;
    virDomainCreateWithFlags: fn(RawDomain, c_uint) -> c_int;
    virDomainResume: fn(RawDomain) -> c_int;
    virDomainSuspend: fn(RawDomain) -> c_int;
    virDomainShutdownFlags: fn(RawDomain, c_uint) -> c_int;
    virDomainDestroyFlags: fn(RawDomain, c_uint) -> c_int;
    virDomainUndefineFlags: fn(RawDomain, c_uint) -> c_int;
    virDomainGetBlockInfo: fn(RawDomain, *const c_char, *mut RawBlockInfo, c_uint) -> c_int;
    virDomainBlockResize: fn(RawDomain, *const c_char, u64, c_uint) -> c_int;
    virDomainOpenGraphicsFD: fn(RawDomain, c_uint, c_uint) -> c_int;
    virDomainInterfaceAddresses:
        fn(RawDomain, *mut *mut *mut RawInterface, c_uint, c_uint) -> c_int;
    virDomainInterfaceFree: fn(*mut RawInterface) -> ();
    virNetworkLookupByName: fn(RawConnection, *const c_char) -> RawNetwork;
    virNetworkFree: fn(RawNetwork) -> c_int;
    virNetworkIsActive: fn(RawNetwork) -> c_int;
    virNetworkGetDHCPLeases:
        fn(RawNetwork, *const c_char, *mut *mut *mut RawLease, c_uint) -> c_int;
    virNetworkDHCPLeaseFree: fn(*mut RawLease) -> ();
    virDomainQemuMonitorCommandWithFiles: fn(
        RawDomain, *const c_char, c_uint, *mut c_int, *mut c_uint, *mut *mut c_int,
        *mut *mut c_char, c_uint
    ) -> c_int;
    virConnectDomainQemuMonitorEventRegister: fn(
        RawConnection, RawDomain, *const c_char, OnMonitor, *mut c_void, Free, c_uint
    ) -> c_int;
    virConnectDomainQemuMonitorEventDeregister: fn(RawConnection, c_int) -> c_int;
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("{library} cannot be loaded: {why}")]
    Missing { library: &'static str, why: String },
    #[error("the libvirt that is installed is too old: {0}")]
    Old(String),
    #[error("libvirt cannot be initialized: {0}")]
    Broken(String),
}

/// The library, loaded and with its event loop running.
pub(crate) struct Library {
    functions: Functions,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Library(..)")
    }
}

/// Once in each process, and never unloaded.
static LOADED: OnceLock<Library> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

impl Library {
    /// From this directory, or where the system has it. Not finding it is not
    /// remembered: it may be installed meanwhile.
    pub(crate) fn load(dir: Option<&Path>) -> Result<&'static Self, LoadError> {
        let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = LOADED.get() {
            return Ok(loaded);
        }
        for library in BESIDE {
            if let Some(path) = dir.map(|dir| dir.join(library)).filter(|path| path.exists())
                && let Ok(beside) = open(&path)
            {
                // Whoever needs it finds it by its name, as long as it stays.
                std::mem::forget(beside);
            }
        }
        let of = |library: &'static str| {
            let path = dir.map_or_else(|| library.into(), |dir| dir.join(library));
            open(&path).map_err(|error| LoadError::Missing { library, why: error.to_string() })
        };
        let (core, qemu) = (of(LIBRARY)?, of(QEMU_LIBRARY)?);
        let functions =
            Functions::find(&core, &qemu).map_err(|error| LoadError::Old(error.to_string()))?;
        // Its threads and its handlers at exit are there until the end.
        std::mem::forget((core, qemu));
        let library = Self { functions };
        library.begin()?;
        let library = LOADED.get_or_init(|| library);
        std::thread::Builder::new()
            .name("libvirt-events".to_owned())
            .spawn(|| library.run_events())
            .map_err(|error| LoadError::Broken(error.to_string()))?;
        Ok(library)
    }

    fn begin(&self) -> Result<(), LoadError> {
        let broken = |what: &str| LoadError::Broken(what.to_owned());
        // SAFETY: no arguments but a function that outlives the process's use
        // of it; the event loop is registered before any connection is opened.
        unsafe {
            // Errors are returned, and not printed as well.
            (self.functions.virSetErrorFunc)(ptr::null_mut(), ignore_error);
            if (self.functions.virInitialize)() < 0 {
                return Err(broken("virInitialize"));
            }
            if (self.functions.virEventRegisterDefaultImpl)() < 0 {
                return Err(broken("virEventRegisterDefaultImpl"));
            }
        }
        Ok(())
    }

    fn run_events(&self) {
        loop {
            // SAFETY: registered in `begin`, and run by this thread alone.
            if unsafe { (self.functions.virEventRunDefaultImpl)() } < 0 {
                tracing::warn!(error = %self.error("waiting for events"), "libvirt's event loop");
                std::thread::park_timeout(BREATH);
            }
        }
    }

    /// Why the call that this thread has just made failed.
    fn error(&self, step: &'static str) -> CallError {
        // SAFETY: the thread's own last error, valid until its next call.
        let error = unsafe { (self.functions.virGetLastError)().as_ref() };
        let Some(error) = error else {
            return CallError { step, code: 0, message: "libvirt says no reason".to_owned() };
        };
        // SAFETY: as above; a string or nothing.
        let message = unsafe { text(error.message) }.unwrap_or_default();
        CallError { step, code: error.code, message }
    }

    fn check(&self, step: &'static str, result: c_int) -> Result<(), CallError> {
        if result < 0 { Err(self.error(step)) } else { Ok(()) }
    }

    /// Connects; `listener` is told what happens from then on.
    pub(crate) fn connect(
        &'static self,
        uri: &str,
        listener: Option<&Arc<dyn Listener>>,
    ) -> Result<Connection, CallError> {
        let step = "connecting";
        let uri = c_text(step, uri)?;
        // SAFETY: a string that lives through the call.
        let raw = unsafe { (self.functions.virConnectOpen)(uri.as_ptr()) };
        let raw = NonNull::new(raw).ok_or_else(|| self.error(step))?;
        let mut connection =
            Connection { library: self, raw, listens: false, lifecycle: None, monitor: None };
        if let Some(listener) = listener {
            connection.listen(listener)?;
        }
        let (interval, count) = KEEPALIVE;
        // SAFETY: a connection that lives.
        let asked = unsafe {
            (self.functions.virConnectSetKeepAlive)(connection.raw.as_ptr(), interval, count)
        };
        self.check("asking for keepalives", asked)?;
        Ok(connection)
    }
}

fn open(path: &Path) -> Result<Handle, libloading::Error> {
    // SAFETY: a library of the system's or of its owner's choice, whose
    // initializers are trusted as much as the program's own.
    unsafe { Handle::open(Some(path), RTLD_LAZY | RTLD_GLOBAL) }
}

unsafe extern "C" fn ignore_error(_user: *mut c_void, _error: *const RawError) {}

/// What is told on the library's own thread: it may not block, nor call back.
pub(crate) trait Listener: Send + Sync + 'static {
    /// The domain of this name is no longer as it was.
    fn changed(&self, domain: &str);
    /// QEMU's event SHUTDOWN, with its details in JSON.
    fn shut_down(&self, domain: &str, details: &str);
    fn closed(&self);
}

struct Told(Arc<dyn Listener>);

impl Told {
    fn into_raw(listener: &Arc<dyn Listener>) -> *mut c_void {
        Box::into_raw(Box::new(Self(Arc::clone(listener)))).cast()
    }

    /// SAFETY: `raw` is [`Told::into_raw`]'s, and has not been freed.
    unsafe fn of<'a>(raw: *mut c_void) -> &'a Self {
        // SAFETY: as the caller says.
        unsafe { &*raw.cast::<Self>() }
    }
}

unsafe extern "C" fn free_told(raw: *mut c_void) {
    // SAFETY: libvirt calls this once, when nobody is told any more.
    drop(unsafe { Box::from_raw(raw.cast::<Told>()) });
}

/// SAFETY: `domain` is one that lives.
unsafe fn name_of(domain: RawDomain) -> String {
    let Some(library) = LOADED.get() else { return String::new() };
    // SAFETY: a domain that lives has a name that lives as long.
    unsafe { text((library.functions.virDomainGetName)(domain)) }.unwrap_or_default()
}

unsafe extern "C" fn on_lifecycle(
    _connection: RawConnection,
    domain: RawDomain,
    _event: c_int,
    _detail: c_int,
    told: *mut c_void,
) -> c_int {
    // SAFETY: libvirt hands over what was registered, and a domain that lives.
    unsafe { Told::of(told).0.changed(&name_of(domain)) };
    0
}

unsafe extern "C" fn on_monitor(
    _connection: RawConnection,
    domain: RawDomain,
    _event: *const c_char,
    _seconds: c_longlong,
    _micros: c_uint,
    details: *const c_char,
    told: *mut c_void,
) {
    // SAFETY: as in `on_lifecycle`; the details are a string or nothing.
    unsafe {
        let details = text(details).unwrap_or_default();
        Told::of(told).0.shut_down(&name_of(domain), &details);
    }
}

unsafe extern "C" fn on_close(_connection: RawConnection, _reason: c_int, told: *mut c_void) {
    // SAFETY: libvirt hands over what was registered.
    unsafe { Told::of(told).0.closed() };
}

/// Why libvirt did not do as it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {message}")]
pub(crate) struct CallError {
    step: &'static str,
    code: c_int,
    message: String,
}

impl CallError {
    pub(crate) fn is_no_domain(&self) -> bool {
        self.code == NO_DOMAIN
    }

    /// Of a domain that was to be ended: it has ended already.
    pub(crate) fn is_not_running(&self) -> bool {
        self.code == OPERATION_INVALID
    }

    pub(crate) fn other(step: &'static str, message: impl Into<String>) -> Self {
        Self { step, code: 0, message: message.into() }
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    library: &'static Library,
    raw: NonNull<c_void>,
    listens: bool,
    lifecycle: Option<c_int>,
    monitor: Option<c_int>,
}

// SAFETY: libvirt counts and locks its connections itself; any thread may use
// one (docs/api.rst).
unsafe impl Send for Connection {}
// SAFETY: the same.
unsafe impl Sync for Connection {}

impl Connection {
    fn listen(&mut self, listener: &Arc<dyn Listener>) -> Result<(), CallError> {
        let (library, raw) = (self.library, self.raw.as_ptr());
        let functions = &library.functions;
        let told = || Told::into_raw(listener);
        let on_shutdown = c"SHUTDOWN".as_ptr();
        // SAFETY: a connection that lives, functions of the types that libvirt
        // wants, and a box for each, which libvirt frees if it took it.
        unsafe {
            let close =
                (functions.virConnectRegisterCloseCallback)(raw, on_close, told(), free_told);
            library.check("listening for the connection's end", close)?;
            self.listens = true;
            let lifecycle = (functions.virConnectDomainEventRegisterAny)(
                raw,
                ptr::null_mut(),
                EVENT_LIFECYCLE,
                on_lifecycle,
                told(),
                free_told,
            );
            library.check("listening for events", lifecycle)?;
            self.lifecycle = Some(lifecycle);
            let monitor = (functions.virConnectDomainQemuMonitorEventRegister)(
                raw,
                ptr::null_mut(),
                on_shutdown,
                on_monitor,
                told(),
                free_told,
                0,
            );
            library.check("listening for QEMU's events", monitor)?;
            self.monitor = Some(monitor);
        }
        Ok(())
    }

    /// As far as is known without asking.
    pub(crate) fn is_alive(&self) -> bool {
        // SAFETY: a connection that lives.
        unsafe { (self.library.functions.virConnectIsAlive)(self.raw.as_ptr()) == 1 }
    }

    /// `QEMU`, `LXC`, ….
    pub(crate) fn kind(&self) -> String {
        // SAFETY: a connection that lives; a static string.
        unsafe { text((self.library.functions.virConnectGetType)(self.raw.as_ptr())) }
            .unwrap_or_default()
    }

    /// Of the daemon: major, minor, release.
    pub(crate) fn version(&self) -> Result<(u64, u64, u64), CallError> {
        let mut version: c_ulong = 0;
        // SAFETY: a connection that lives, and a number to write to.
        let got = unsafe {
            (self.library.functions.virConnectGetLibVersion)(self.raw.as_ptr(), &raw mut version)
        };
        self.library.check("asking for its version", got)?;
        Ok((version / 1_000_000, version / 1_000 % 1_000, version % 1_000))
    }

    /// Whether there is a QEMU for guests of another architecture, on its board
    /// `virt` and with UEFI firmware.
    pub(crate) fn boots_by_efi(&self, guests: Architecture) -> Result<(), CallError> {
        let step = "looking for a QEMU and its firmware";
        let architecture = c_text(step, guests.as_str())?;
        // SAFETY: a connection that lives, and strings that do, or none; what
        // comes back is malloc's and ours.
        let about = unsafe {
            let (raw, board, kind) = (self.raw.as_ptr(), c"virt".as_ptr(), c"qemu".as_ptr());
            let found = (self.library.functions.virConnectGetDomainCapabilities)(
                raw,
                ptr::null(),
                architecture.as_ptr(),
                board,
                kind,
                0,
            );
            if found.is_null() {
                return Err(self.library.error(step));
            }
            let copy = text(found).unwrap_or_default();
            libc::free(found.cast());
            copy
        };
        match about.contains("<value>efi</value>") {
            true => Ok(()),
            false => Err(CallError::other(step, "there is no firmware")),
        }
    }

    pub(crate) fn define(&self, xml: &str) -> Result<Domain, CallError> {
        let step = "defining the domain";
        let xml = c_text(step, xml)?;
        // SAFETY: a connection that lives, and a string that does.
        let raw =
            unsafe { (self.library.functions.virDomainDefineXML)(self.raw.as_ptr(), xml.as_ptr()) };
        self.domain(step, raw)
    }

    /// `None` where there is no such domain.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Domain>, CallError> {
        let step = "looking for the domain";
        let name = c_text(step, name)?;
        // SAFETY: a connection that lives, and a string that does.
        let raw = unsafe {
            (self.library.functions.virDomainLookupByName)(self.raw.as_ptr(), name.as_ptr())
        };
        match self.domain(step, raw) {
            Ok(domain) => Ok(Some(domain)),
            Err(error) if error.is_no_domain() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn domains(&self) -> Result<Vec<Domain>, CallError> {
        let mut all: *mut RawDomain = ptr::null_mut();
        // SAFETY: a connection that lives, and where to put the list.
        let count = unsafe {
            (self.library.functions.virConnectListAllDomains)(self.raw.as_ptr(), &raw mut all, 0)
        };
        self.library.check("listing domains", count)?;
        let mut domains = Vec::new();
        for index in 0..usize::try_from(count).unwrap_or_default() {
            // SAFETY: the list has `count` domains, which are ours to free.
            let raw = unsafe { *all.add(index) };
            domains.extend(NonNull::new(raw).map(|raw| Domain { library: self.library, raw }));
        }
        // SAFETY: the list itself is malloc's (docs of virConnectListAllDomains).
        unsafe { libc::free(all.cast()) };
        Ok(domains)
    }

    fn domain(&self, step: &'static str, raw: RawDomain) -> Result<Domain, CallError> {
        let raw = NonNull::new(raw).ok_or_else(|| self.library.error(step))?;
        Ok(Domain { library: self.library, raw })
    }
}

impl Drop for Connection {
    /// Blocks as any call does, where the daemon lives.
    fn drop(&mut self) {
        let (functions, raw) = (&self.library.functions, self.raw.as_ptr());
        // SAFETY: a connection that lives until the last line; whoever is told
        // has a count of it, which goes first.
        unsafe {
            if let Some(id) = self.monitor {
                (functions.virConnectDomainQemuMonitorEventDeregister)(raw, id);
            }
            if let Some(id) = self.lifecycle {
                (functions.virConnectDomainEventDeregisterAny)(raw, id);
            }
            if self.listens {
                (functions.virConnectUnregisterCloseCallback)(raw, on_close);
            }
            (functions.virConnectClose)(raw);
        }
    }
}

/// How libvirt has a domain (virDomainState) and, where it is off, why
/// (virDomainShutoffReason).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DomainState {
    /// Running, paused, or about to end.
    Active,
    Off(OffReason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OffReason {
    ShutDown,
    Destroyed,
    Crashed,
    /// It never started, or libvirt does not know any more.
    Unknown,
}

/// Has a count of its connection.
#[derive(Debug)]
pub(crate) struct Domain {
    library: &'static Library,
    raw: NonNull<c_void>,
}

impl Domain {
    fn functions(&self) -> &'static Functions {
        &self.library.functions
    }

    fn check(&self, step: &'static str, result: c_int) -> Result<(), CallError> {
        self.library.check(step, result)
    }

    pub(crate) fn name(&self) -> String {
        // SAFETY: a domain that lives.
        unsafe { name_of(self.raw.as_ptr()) }
    }

    pub(crate) fn state(&self) -> Result<DomainState, CallError> {
        let (mut state, mut reason) = (0, 0);
        // SAFETY: a domain that lives, and two numbers to write to.
        let got = unsafe {
            let (state, reason) = (&raw mut state, &raw mut reason);
            (self.functions().virDomainGetState)(self.raw.as_ptr(), state, reason, 0)
        };
        self.check("asking how the domain is", got)?;
        // VIR_DOMAIN_SHUTOFF is 5 and VIR_DOMAIN_CRASHED is 6.
        Ok(match (state, reason) {
            (5, 1) => DomainState::Off(OffReason::ShutDown),
            (5, 2) => DomainState::Off(OffReason::Destroyed),
            (5, 3) | (6, _) => DomainState::Off(OffReason::Crashed),
            (5, _) => DomainState::Off(OffReason::Unknown),
            _ => DomainState::Active,
        })
    }

    /// What somebody has put into the definition under this namespace.
    pub(crate) fn metadata(&self, namespace: &str) -> Result<Option<String>, CallError> {
        let step = "reading the domain's metadata";
        let namespace = c_text(step, namespace)?;
        // SAFETY: a domain that lives, and a string that does; what comes back
        // is malloc's and ours.
        unsafe {
            let (raw, kind) = (self.raw.as_ptr(), METADATA_ELEMENT);
            let found = (self.functions().virDomainGetMetadata)(raw, kind, namespace.as_ptr(), 0);
            if found.is_null() {
                let error = self.library.error(step);
                return if error.code == NO_METADATA { Ok(None) } else { Err(error) };
            }
            let copy = text(found);
            libc::free(found.cast());
            Ok(copy)
        }
    }

    /// Starts it, with its CPUs stopped; `leased` ties it to the connection.
    pub(crate) fn start_paused(&self, leased: bool) -> Result<(), CallError> {
        let flags = START_PAUSED | if leased { START_AUTODESTROY } else { 0 };
        // SAFETY: a domain that lives.
        let started =
            unsafe { (self.functions().virDomainCreateWithFlags)(self.raw.as_ptr(), flags) };
        self.check("starting the domain", started)
    }

    pub(crate) fn resume(&self) -> Result<(), CallError> {
        // SAFETY: a domain that lives.
        let resumed = unsafe { (self.functions().virDomainResume)(self.raw.as_ptr()) };
        self.check("letting the domain run", resumed)
    }

    pub(crate) fn suspend(&self) -> Result<(), CallError> {
        // SAFETY: a domain that lives.
        let suspended = unsafe { (self.functions().virDomainSuspend)(self.raw.as_ptr()) };
        self.check("pausing the domain", suspended)
    }

    pub(crate) fn press_power_button(&self) -> Result<(), CallError> {
        // SAFETY: a domain that lives.
        let pressed =
            unsafe { (self.functions().virDomainShutdownFlags)(self.raw.as_ptr(), POWER_BUTTON) };
        self.check("pressing the power button", pressed)
    }

    /// By SIGTERM, and by SIGKILL when that has not helped.
    pub(crate) fn destroy(&self) -> Result<(), CallError> {
        // SAFETY: a domain that lives.
        let destroyed = unsafe { (self.functions().virDomainDestroyFlags)(self.raw.as_ptr(), 0) };
        self.check("ending the domain", destroyed)
    }

    pub(crate) fn undefine(&self) -> Result<(), CallError> {
        // SAFETY: a domain that lives.
        let undefined =
            unsafe { (self.functions().virDomainUndefineFlags)(self.raw.as_ptr(), UNDEFINE_ALL) };
        self.check("removing the domain's definition", undefined)
    }

    /// The size of a disk, by its target (`vda`), as QEMU has it.
    pub(crate) fn disk_size(&self, target: &str) -> Result<u64, CallError> {
        let step = "asking for a disk's size";
        let target = c_text(step, target)?;
        let mut info = RawBlockInfo::default();
        // SAFETY: a domain that lives, a string that does, a struct to fill.
        let got = unsafe {
            let (raw, info) = (self.raw.as_ptr(), &raw mut info);
            (self.functions().virDomainGetBlockInfo)(raw, target.as_ptr(), info, 0)
        };
        self.check(step, got)?;
        Ok(info.capacity)
    }

    pub(crate) fn resize_disk(&self, target: &str, size: u64) -> Result<(), CallError> {
        let step = "resizing a disk";
        let target = c_text(step, target)?;
        // SAFETY: a domain that lives, and a string that does.
        let resized = unsafe {
            let raw = self.raw.as_ptr();
            (self.functions().virDomainBlockResize)(raw, target.as_ptr(), size, RESIZE_BYTES)
        };
        self.check(step, resized)
    }

    /// A fresh connection to its screen, at the protocol's beginning.
    pub(crate) fn open_screen(&self) -> Result<OwnedFd, CallError> {
        // SAFETY: a domain that lives.
        let fd = unsafe { (self.functions().virDomainOpenGraphicsFD)(self.raw.as_ptr(), 0, 0) };
        self.check("opening the screen", fd)?;
        // SAFETY: a descriptor that is ours (docs of virDomainOpenGraphicsFD).
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Has QEMU told something by its monitor, and its answer in JSON.
    pub(crate) fn tell_qemu(
        &self,
        command: &str,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<String, CallError> {
        let step = "telling QEMU";
        let command = c_text(step, command)?;
        let mut numbers: Vec<c_int> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
        let count = c_uint::from(descriptor.is_some());
        let mut answer: *mut c_char = ptr::null_mut();
        let (mut returned, mut files) = (0, ptr::null_mut());
        // SAFETY: a domain that lives, a string that does, as many descriptors
        // as are said, which their owner holds through the call; what comes
        // back is malloc's and ours. No command that is told returns any file.
        unsafe {
            let told = (self.functions().virDomainQemuMonitorCommandWithFiles)(
                self.raw.as_ptr(),
                command.as_ptr(),
                count,
                numbers.as_mut_ptr(),
                &raw mut returned,
                &raw mut files,
                &raw mut answer,
                0,
            );
            self.check(step, told)?;
            libc::free(files.cast());
            let copy = text(answer).unwrap_or_default();
            libc::free(answer.cast());
            Ok(copy)
        }
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: a domain that lives, for the last time.
        unsafe { (self.functions().virDomainFree)(self.raw.as_ptr()) };
    }
}

fn c_text(step: &'static str, text: &str) -> Result<CString, CallError> {
    CString::new(text).map_err(|_| CallError::other(step, "a text has a zero in it"))
}

/// SAFETY: null, or a string that lives through the call.
unsafe fn text(raw: *const c_char) -> Option<String> {
    // SAFETY: as the caller says.
    (!raw.is_null()).then(|| unsafe { CStr::from_ptr(raw) }.to_string_lossy().into_owned())
}
