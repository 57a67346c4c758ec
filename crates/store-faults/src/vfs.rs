//! The shim: SQLite's own VFS with a look at what passes.
//!
//! A VFS is a struct of functions, and an open file a struct that begins with
//! a pointer to another such table (sqlite.org/vfs.html). Ours lies right in
//! front of the file of the VFS below, in the one piece of memory that SQLite
//! allocates for both.
#![expect(unsafe_code, reason = "SQLite's file layer is a table of C functions")]

use std::cell::Cell;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;

use rusqlite::ffi;

use crate::events::{FileTap, find};

/// SQLite keeps the pointer for the process's life.
const NAME: &CStr = c"inn-faults";

/// An open file, as SQLite allocates it: `szOsFile` bytes, of which the rest
/// is the file of the VFS below.
#[repr(C)]
struct File {
    /// First: SQLite knows no more of it.
    base: ffi::sqlite3_file,
    tap: Option<Box<FileTap>>,
    below: *mut ffi::sqlite3_file,
}

/// The VFS below and the system call of its that syncs directories.
struct Below {
    vfs: *mut ffi::sqlite3_vfs,
    open_directory: OpenDirectory,
}

type OpenDirectory = unsafe extern "C" fn(*const c_char, *mut c_int) -> c_int;

// SAFETY: both lie in static memory of SQLite's, which never changes after
// sqlite3_initialize but for the overridden system call, set once in `below`.
unsafe impl Send for Below {}
// SAFETY: as above; all their functions may be called from any thread
// (SQLITE_THREADSAFE=1).
unsafe impl Sync for Below {}

thread_local! {
    /// Whether the call to the VFS below that is under way has opened a
    /// directory, which it does only to sync it.
    static DIRECTORY_OPENED: Cell<bool> = const { Cell::new(false) };
}

/// Makes the shim the default VFS, once.
pub(crate) fn install() -> io::Result<()> {
    static DONE: OnceLock<Result<(), &'static str>> = OnceLock::new();
    DONE.get_or_init(|| {
        let below = below().ok_or("SQLite has no VFS called unix")?;
        // SAFETY: `below.vfs` points to a whole sqlite3_vfs, which is plain
        // data and may be copied.
        let mut ours = unsafe { ptr::read(below.vfs) };
        let own = c_int::try_from(size_of::<File>()).map_err(|_| "a file of 2 GiB")?;
        ours.szOsFile += own;
        ours.pNext = ptr::null_mut();
        ours.zName = NAME.as_ptr();
        ours.xOpen = Some(open);
        ours.xDelete = Some(delete);
        // All else is left as it is: those functions look at nothing of the
        // VFS but pAppData, which is copied (os_unix.c).
        let ours = Box::leak(Box::new(ours));
        // SAFETY: it lives for ever, and so does its name.
        match unsafe { ffi::sqlite3_vfs_register(ours, 1) } {
            ffi::SQLITE_OK => Ok(()),
            _ => Err("SQLite takes no VFS"),
        }
    })
    .map_err(io::Error::other)
}

fn below() -> Option<&'static Below> {
    static BELOW: OnceLock<Option<Below>> = OnceLock::new();
    let find_it = || {
        // SAFETY: a C string; SQLite initialises itself in this call.
        let vfs = unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) };
        // SAFETY: null, or a VFS that is never unregistered.
        let methods = unsafe { vfs.as_ref() }?;
        let (get, set) = (methods.xGetSystemCall?, methods.xSetSystemCall?);
        // SAFETY: the VFS's own function with the VFS and a C string.
        let original = unsafe { get(vfs, c"openDirectory".as_ptr()) }?;
        // SAFETY: os_unix.c's table has the call of this name as
        // `int (*)(const char*, int*)`.
        let open_directory =
            unsafe { std::mem::transmute::<unsafe extern "C" fn(), OpenDirectory>(original) };
        let ours: OpenDirectory = open_and_note;
        // SAFETY: the same type the other way round; it is called as what it is.
        let ours = unsafe { std::mem::transmute::<OpenDirectory, unsafe extern "C" fn()>(ours) };
        // SAFETY: as above. Nobody has a file open in this directory yet for
        // whom it would matter, and the function behaves as the one before.
        let set = unsafe { set(vfs, c"openDirectory".as_ptr(), Some(ours)) };
        (set == ffi::SQLITE_OK).then_some(Below { vfs, open_directory })
    };
    BELOW.get_or_init(find_it).as_ref()
}

unsafe extern "C" fn open_and_note(name: *const c_char, descriptor: *mut c_int) -> c_int {
    let Some(below) = below() else { return ffi::SQLITE_CANTOPEN };
    // SAFETY: SQLite's arguments, handed on.
    let opened = unsafe { (below.open_directory)(name, descriptor) };
    if opened == ffi::SQLITE_OK {
        DIRECTORY_OPENED.set(true);
    }
    opened
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let Some(below) = below() else { return ffi::SQLITE_CANTOPEN };
    let file = file.cast::<File>();
    // SAFETY: SQLite hands over `szOsFile` bytes, aligned for any type: ours
    // come first, those of the VFS below after them.
    let of_below = unsafe { file.add(1) }.cast::<ffi::sqlite3_file>();
    // SAFETY: the name is a C string, or null for a temporary file.
    let path = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) });
    let path = path.map(|path| Path::new(OsStr::from_bytes(path.to_bytes())));
    let was_there = path.is_some_and(Path::exists);
    // SAFETY: the VFS's own function, with its own VFS and memory for its file.
    let opened = unsafe {
        match (*below.vfs).xOpen {
            Some(open) => open(below.vfs, name, of_below, flags, out_flags),
            None => ffi::SQLITE_CANTOPEN,
        }
    };
    // SAFETY: xOpen always sets pMethods, to null where there is nothing to
    // close (sqlite.org/c3ref/vfs.html).
    let is_open = unsafe { !(*of_below).pMethods.is_null() };
    let tap = path.filter(|_| opened == ffi::SQLITE_OK).and_then(find);
    let ours = File {
        base: ffi::sqlite3_file {
            pMethods: if is_open { &raw const METHODS } else { ptr::null() },
        },
        tap: tap.map(|(tap, name)| Box::new(tap.opened(&name, !was_there))),
        below: of_below,
    };
    // SAFETY: the first `size_of::<File>()` of those bytes, which hold nothing
    // that wants to be dropped.
    unsafe { ptr::write(file, ours) };
    opened
}

unsafe extern "C" fn delete(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_directory: c_int,
) -> c_int {
    let Some(below) = below() else { return ffi::SQLITE_IOERR_DELETE };
    DIRECTORY_OPENED.set(false);
    // SAFETY: the VFS's own function with what SQLite has given.
    let deleted = unsafe {
        match (*below.vfs).xDelete {
            Some(delete) => delete(below.vfs, name, sync_directory),
            None => ffi::SQLITE_IOERR_DELETE,
        }
    };
    // SAFETY: a C string.
    let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
    if deleted == ffi::SQLITE_OK
        && let Some((tap, name)) = find(path)
    {
        tap.removed(name, DIRECTORY_OPENED.get());
    }
    deleted
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // With shared memory, without memory-mapped files: those would be written
    // past us.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// A method that only hands on.
macro_rules! hand_on {
    ($name:ident, $method:ident, ($($arg:ident: $type:ty),*) else $without:expr) => {
        unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file $(, $arg: $type)*) -> c_int {
            // SAFETY: SQLite calls this with a file that `open` has made and
            // `close` has not ended; below it lies an open file of the VFS
            // below, with that VFS's methods, and the arguments are SQLite's.
            unsafe {
                let below = (*file.cast::<File>()).below;
                match (*(*below).pMethods).$method {
                    Some(method) => method(below $(, $arg)*),
                    None => $without,
                }
            }
        }
    };
}

hand_on!(close_below, xClose, () else ffi::SQLITE_OK);
hand_on!(read, xRead, (to: *mut c_void, amount: c_int, at: i64) else ffi::SQLITE_IOERR);
hand_on!(write_below, xWrite, (from: *const c_void, amount: c_int, at: i64) else ffi::SQLITE_IOERR);
hand_on!(truncate_below, xTruncate, (length: i64) else ffi::SQLITE_IOERR);
hand_on!(sync_below, xSync, (flags: c_int) else ffi::SQLITE_IOERR);
hand_on!(file_size, xFileSize, (size: *mut i64) else ffi::SQLITE_IOERR);
hand_on!(lock, xLock, (level: c_int) else ffi::SQLITE_IOERR);
hand_on!(unlock, xUnlock, (level: c_int) else ffi::SQLITE_IOERR);
hand_on!(check_reserved_lock, xCheckReservedLock, (out: *mut c_int) else ffi::SQLITE_IOERR);
hand_on!(file_control, xFileControl, (op: c_int, arg: *mut c_void) else ffi::SQLITE_NOTFOUND);
hand_on!(sector_size, xSectorSize, () else 4096);
hand_on!(device_characteristics, xDeviceCharacteristics, () else 0);
hand_on!(shm_map, xShmMap, (region: c_int, size: c_int, extend: c_int, out: *mut *mut c_void)
    else ffi::SQLITE_IOERR);
hand_on!(shm_lock, xShmLock, (offset: c_int, n: c_int, flags: c_int) else ffi::SQLITE_IOERR);
hand_on!(shm_unmap, xShmUnmap, (remove: c_int) else ffi::SQLITE_IOERR);

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: as in `hand_on`.
    unsafe {
        let below = (*file.cast::<File>()).below;
        if let Some(barrier) = (*(*below).pMethods).xShmBarrier {
            barrier(below);
        }
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: as in `hand_on`; SQLite calls nothing more with this file.
    unsafe {
        let closed = close_below(file);
        (*file.cast::<File>()).tap = None;
        closed
    }
}

/// Where the file's events go.
///
/// # Safety
///
/// The file is one that `open` has made, and it is not used otherwise while
/// the answer is.
unsafe fn tap<'a>(file: *mut ffi::sqlite3_file) -> Option<&'a FileTap> {
    // SAFETY: the caller's promise.
    unsafe { (*file.cast::<File>()).tap.as_deref() }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    amount: c_int,
    at: i64,
) -> c_int {
    let (Ok(length), Ok(offset)) = (usize::try_from(amount), usize::try_from(at)) else {
        return ffi::SQLITE_IOERR_WRITE;
    };
    // SAFETY: SQLite's file.
    let tap = unsafe { tap(file) };
    if tap.is_some_and(|tap| !tap.may_write(offset, length)) {
        return ffi::SQLITE_FULL;
    }
    // SAFETY: SQLite's file and arguments.
    let written = unsafe { write_below(file, from, amount, at) };
    if written == ffi::SQLITE_OK
        && let Some(tap) = tap
    {
        // SAFETY: `amount` bytes to read, by the contract of xWrite.
        tap.written(offset, unsafe { std::slice::from_raw_parts(from.cast::<u8>(), length) });
    }
    written
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, length: i64) -> c_int {
    // SAFETY: SQLite's file and arguments.
    let (done, tap) = unsafe { (truncate_below(file, length), tap(file)) };
    if done == ffi::SQLITE_OK
        && let (Some(tap), Ok(length)) = (tap, usize::try_from(length))
    {
        tap.truncated(length);
    }
    done
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    DIRECTORY_OPENED.set(false);
    // SAFETY: SQLite's file and arguments.
    let (done, tap) = unsafe { (sync_below(file, flags), tap(file)) };
    if done == ffi::SQLITE_OK
        && let Some(tap) = tap
    {
        tap.synced(DIRECTORY_OPENED.get());
    }
    done
}
