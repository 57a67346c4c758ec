use std::os::unix::fs::{FileExt, MetadataExt};

use super::*;

const MEMORY: Bytes = Bytes::mib(64);

const SHARED: &str = "/memfd:memory-backend-memfd (deleted)";

/// As QEMU names it, with a few pages in use and one that is all zeros.
fn ram() -> File {
    let ram = nameless("memory-backend-memfd").unwrap();
    ram.set_len(MEMORY.get()).unwrap();
    for (at, byte) in [(0, 7), (4096, 0), (5 << 20, 7), (MEMORY.get() - 4096, 7)] {
        ram.write_all_at(&[byte; 4096], at).unwrap();
    }
    ram
}

fn shared(ram: &File) -> Ram {
    Ram::Shared(ram.try_clone().unwrap())
}

#[test]
fn a_copy_has_the_same_bytes_and_less_in_use() {
    let ram = ram();
    let copied = copy(&shared(&ram), MEMORY).unwrap();
    let (a, b) = (ram.metadata().unwrap(), copied.metadata().unwrap());
    assert_eq!(a.len(), b.len());
    assert!(b.blocks() < a.blocks(), "{} and {}", b.blocks(), a.blocks());
    let mut page = [0; 4096];
    for (at, byte) in [(0, 7), (4096, 0), (5 << 20, 7), (MEMORY.get() - 4096, 7)] {
        copied.read_exact_at(&mut page, at).unwrap();
        assert_eq!(page, [byte; 4096], "at {at}");
    }
    seal(&copied).unwrap();
    assert!(copied.write_all_at(b"x", 0).is_err(), "it is sealed");
    assert!(reopened(&copied).unwrap().write_all_at(b"x", 0).is_err());
}

#[test]
fn memory_that_was_never_used_is_all_hole() {
    let ram = nameless("x").unwrap();
    ram.set_len(MEMORY.get()).unwrap();
    let copied = copy(&shared(&ram), MEMORY).unwrap();
    assert_eq!(copied.metadata().unwrap().len(), MEMORY.get());
    assert_eq!(copied.metadata().unwrap().blocks(), 0);
}

/// A VMM that was taken over shows what it likes: none of it is copied but what
/// is as large as its machine's memory.
#[test]
fn what_a_vmm_shows_as_its_memory_is_no_more_than_it_has() {
    let own = std::process::id();
    assert!(ram_of(own, SHARED, MEMORY).unwrap().is_none(), "this process has no guest");
    let large = nameless("memory-backend-memfd").unwrap();
    large.set_len(1 << 50).unwrap();
    let error = ram_of(own, SHARED, MEMORY).unwrap_err();
    assert!(error.to_string().contains("as its memory, and it has 64MiB"), "{error}");
    // The right one is found beside it.
    let right = ram();
    let found = ram_of(own, SHARED, MEMORY).unwrap().expect("this process has one");
    let Ram::Shared(file) = &found else { panic!("it is shared: {found:?}") };
    assert_eq!(file.metadata().unwrap().ino(), right.metadata().unwrap().ino());
    // It grows while it is copied, or is cut short: QEMU's own is sealed against
    // both, and a stranger's ends the copy at most.
    right.set_len(1 << 50).unwrap();
    assert_eq!(copy(&found, MEMORY).unwrap().metadata().unwrap().len(), MEMORY.get());
    right.set_len(4096).unwrap();
    assert!(copy(&found, MEMORY).is_ok_and(|copy| copy.metadata().unwrap().blocks() <= 8));
}

#[test]
fn another_life_knows_how_much_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let error = recorded(dir.path()).unwrap_err();
    assert!(error.to_string().contains("start it anew"), "{error}");
    for memory in [MEMORY, Bytes::mib(1)] {
        record(dir.path(), memory).unwrap();
        assert_eq!(recorded(dir.path()).unwrap(), memory);
    }
    fs::remove_file(dir.path().join(RECORD)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join(RECORD)).unwrap();
    recorded(dir.path()).unwrap_err();
}

/// How long a parent stands still for it, said for whoever looks.
#[test]
fn copying_what_an_idle_guest_uses() {
    let memory = Bytes::mib(128);
    let ram = nameless("x").unwrap();
    ram.set_len(memory.get()).unwrap();
    ram.write_all_at(&vec![0; 20 << 20], 0).unwrap();
    ram.write_all_at(&vec![7; 70 << 20], 20 << 20).unwrap();
    for _ in 0..3 {
        let start = std::time::Instant::now();
        let copied = copy(&shared(&ram), memory).unwrap();
        println!("copied in {:?}", start.elapsed());
        assert_eq!(copied.metadata().unwrap().blocks() * 512, 70 << 20);
    }
}
