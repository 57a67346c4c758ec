use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;
use crate::kernel::elf::tests::object;

/// A `lib/modules/VERSION` whose modules have the given needs.
fn tree(modules: &[(&str, &str)], builtin: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, modinfo) in modules {
        let path = dir.path().join("kernel").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let plain = object(".modinfo", modinfo.replace(';', "\0").as_bytes());
        fs::write(path, pack(plain, modinfo)).unwrap();
    }
    fs::write(dir.path().join("modules.builtin"), builtin).unwrap();
    dir
}

fn pack(plain: Vec<u8>, modinfo: &str) -> Vec<u8> {
    use std::io::Read;
    let mut out = Vec::new();
    if modinfo.contains("pack=xz") {
        liblzma::read::XzEncoder::new(plain.as_slice(), 1).read_to_end(&mut out).unwrap();
    } else if modinfo.contains("pack=zst") {
        out = zstd::encode_all(plain.as_slice(), 1).unwrap();
    } else if modinfo.contains("pack=gz") {
        flate2::read::GzEncoder::new(plain.as_slice(), flate2::Compression::fast())
            .read_to_end(&mut out)
            .unwrap();
    } else {
        out = plain;
    }
    out
}

fn debian() -> tempfile::TempDir {
    tree(
        &[
            ("drivers/virtio/virtio.ko", "name=virtio;depends=virtio_ring;"),
            ("drivers/virtio/virtio_ring.ko", "name=virtio_ring;depends=;"),
            ("drivers/virtio/virtio_mmio.ko", "depends=virtio,virtio_ring;"),
            (
                "drivers/virtio/virtio_pci.ko.zst",
                "pack=zst;depends=virtio_ring,virtio_pci_modern_dev,virtio;",
            ),
            ("drivers/virtio/virtio_pci_modern_dev.ko", "depends=;"),
            ("drivers/char/virtio_console.ko.xz", "pack=xz;depends=virtio,virtio_ring;"),
            ("drivers/block/virtio_blk.ko.gz", "pack=gz;depends=virtio,virtio_ring;"),
            ("fs/overlayfs/overlay.ko", "depends=;"),
            (
                "drivers/net/virtio_net.ko",
                "depends=virtio_ring,virtio,net-failover;softdep=pre: absent a-hint;",
            ),
            ("net/core/net_failover.ko", "depends=failover;"),
            ("net/core/failover.ko", "depends=;"),
            ("lib/a-hint.ko", "depends=;"),
            ("net/vmw_vsock/vsock.ko", "depends=;"),
            ("net/vmw_vsock/vmw_vsock_virtio_transport_common.ko", "depends=vsock;"),
            (
                "net/vmw_vsock/vmw_vsock_virtio_transport.ko",
                "depends=virtio_ring,virtio,vmw_vsock_virtio_transport_common,vsock;",
            ),
            ("drivers/gpu/unwanted.ko", "depends=virtio;"),
        ],
        "kernel/fs/ext4/ext4.ko\n",
    )
}

fn names(set: ModuleSet) -> Vec<String> {
    named(modules::pick(debian().path(), set).unwrap().always)
}

fn named(modules: Vec<modules::Module>) -> Vec<String> {
    modules.into_iter().map(|module| module.name).collect()
}

#[test]
fn modules_come_after_what_they_need_and_the_channel_first() {
    let mmio = [
        "virtio_ring",
        "virtio",
        "virtio_mmio",
        "virtio_console",
        "virtio_blk",
        "overlay",
        "failover",
        "net_failover",
        "a_hint",
        "virtio_net",
    ];
    assert_eq!(names(ModuleSet::Mmio), mmio);
    let pci = ["virtio_ring", "virtio_pci_modern_dev", "virtio", "virtio_pci", "virtio_console"];
    assert_eq!(names(ModuleSet::Pci)[..5], pci);
}

#[test]
fn a_vsock_s_modules_are_a_list_of_their_own_without_what_is_loaded_by_then() {
    let vsock = ["vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"];
    for set in [ModuleSet::Mmio, ModuleSet::Pci] {
        let picked = modules::pick(debian().path(), set).unwrap();
        assert_eq!(named(picked.vsock), vsock);
        assert!(named(picked.always).iter().all(|name| !name.contains("vsock")));
    }
}

#[test]
fn a_kernel_that_lacks_a_driver_is_named() {
    let dir = tree(&[("virtio_mmio.ko", "depends=virtio;")], "");
    let refusal = modules::pick(dir.path(), ModuleSet::Mmio).unwrap_err().to_string();
    assert!(
        refusal.contains(" virtio ") && refusal.contains(dir.path().to_str().unwrap()),
        "{refusal}"
    );
}

#[test]
fn a_circle_of_dependencies_ends() {
    let dir = tree(
        &[("virtio_mmio.ko", "depends=b;"), ("b.ko", "depends=virtio-mmio;")],
        "x/virtio_console.ko\nx/virtio_blk.ko\nx/ext4.ko\nx/overlay.ko\nx/virtio_net.ko\n",
    );
    let picked = modules::pick(dir.path(), ModuleSet::Mmio).unwrap();
    assert_eq!(named(picked.always), ["b", "virtio_mmio"]);
    assert_eq!(named(picked.vsock), [""; 0]);
}

#[test]
fn what_is_no_module_is_named() {
    let dir = tree(&[], "");
    fs::write(dir.path().join("virtio_mmio.ko"), b"garbage").unwrap();
    let refusal = modules::pick(dir.path(), ModuleSet::Mmio).unwrap_err().to_string();
    assert!(refusal.contains("virtio_mmio.ko"), "{refusal}");
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let build = || build(Some(debian().path()), b"guest", ModuleSet::Mmio).unwrap();
    assert_eq!(build(), build());
}

/// Unpacked by the `cpio` program, which no one here wrote.
#[test]
fn the_archive_holds_what_the_guest_expects() {
    let archive = build(Some(debian().path()), b"the guest's binary", ModuleSet::Mmio).unwrap();
    let out = tempfile::tempdir().unwrap();
    let packed = out.path().join("initramfs.cpio");
    fs::write(&packed, &archive).unwrap();

    let listed = cpio(&["--list", "--verbose", "--numeric-uid-gid"], out.path(), &packed);
    let listed = String::from_utf8(listed).unwrap();
    let console = listed.lines().find(|line| line.ends_with("dev/console")).unwrap();
    let mut words = console.split_whitespace();
    assert_eq!(words.next().unwrap(), "crw-------");
    assert!(console.contains("5,   1"), "{console}");
    assert!(listed.lines().all(|line| line.split_whitespace().nth(2) == Some("0")), "{listed}");

    // Only root may make the device node, so all but it is unpacked.
    cpio(&["--extract", "--nonmatching", "dev/console"], out.path(), &packed);
    let at = |path: &str| -> PathBuf { out.path().join(path) };
    assert_eq!(fs::read(at("init")).unwrap(), b"the guest's binary");
    assert_eq!(fs::metadata(at("init")).unwrap().permissions().mode() & 0o7777, 0o755);
    for dir in DIRECTORIES {
        assert!(at(dir).is_dir(), "{dir}");
    }
    let load = fs::read_to_string(at("modules/load")).unwrap();
    assert_eq!(load.lines().count(), 10);
    let load_vsock = fs::read_to_string(at("modules/load-vsock")).unwrap();
    assert_eq!(load_vsock.lines().count(), 3);
    for name in load.lines().chain(load_vsock.lines()) {
        let module = fs::read(at("modules").join(name)).unwrap();
        assert!(module.starts_with(b"\x7fELF"), "{name} is unpacked");
    }
    assert_eq!(
        fs::read_dir(at("modules")).unwrap().count(),
        15,
        "nothing but the lists and what they name"
    );
}

#[test]
fn a_kernel_with_all_built_in_has_an_empty_list() {
    let archive = build(None, b"guest", ModuleSet::Mmio).unwrap();
    let out = tempfile::tempdir().unwrap();
    let packed = out.path().join("initramfs.cpio");
    fs::write(&packed, &archive).unwrap();
    cpio(&["--extract", "--nonmatching", "dev/console"], out.path(), &packed);
    assert_eq!(fs::metadata(out.path().join("modules/load")).unwrap().size(), 0);
    assert!(!fs::metadata(out.path().join("init")).unwrap().file_type().is_char_device());
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test asks another program what it makes of our bytes"
)]
fn cpio(args: &[&str], dir: &Path, archive: &Path) -> Vec<u8> {
    let done = Command::new("cpio")
        .args(args)
        .arg("--quiet")
        .current_dir(dir)
        .stdin(fs::File::open(archive).unwrap())
        .stderr(Stdio::piped())
        .output()
        .expect("the tests need the package cpio");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}
