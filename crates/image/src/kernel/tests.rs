use std::fs;
use std::io::{Read, Write};

use super::*;
use crate::kernel::elf::tests::vmlinux;

const PVH: u32 = 18;

/// A bzImage as boot.rst lays it out, with one setup sector.
fn bzimage(version: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 1024 + 64];
    out[0x1f1] = 1;
    out[0x202..0x206].copy_from_slice(b"HdrS");
    out[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    out[0x20e..0x210].copy_from_slice(&0x0100u16.to_le_bytes());
    out[0x248..0x24c].copy_from_slice(&64u32.to_le_bytes());
    out[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    let text = format!("{version} (someone) #1 SMP\0");
    out[0x300..0x300 + text.len()].copy_from_slice(text.as_bytes());
    out.extend_from_slice(payload);
    // The real one goes on after the payload, too.
    out.extend_from_slice(&[0x90; 100]);
    out
}

fn with_size(mut packed: Vec<u8>, size: usize) -> Vec<u8> {
    packed.extend(u32::try_from(size).unwrap().to_le_bytes());
    packed
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::fast()).read_to_end(&mut out).unwrap();
    out
}

fn lz4(bytes: &[u8], block: usize) -> Vec<u8> {
    let mut out = vec![0x02, 0x21, 0x4c, 0x18];
    for block in bytes.chunks(block) {
        let packed = lz4_flex::block::compress(block);
        out.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
        out.extend(packed);
    }
    out
}

/// Large enough for more than one block and not all alike.
fn big_vmlinux() -> Vec<u8> {
    let mut elf = vmlinux(PVH);
    let mut state = 1u32;
    elf.extend((0..200_000).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 28).to_le_bytes()[0]
    }));
    elf
}

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    fn write(&self, relative: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn store(&self) -> KernelStore {
        KernelStore::with_host(&self.path("cache"), HostKernels { boot: self.path("host/boot") })
            .unwrap()
    }

    fn resolve(&self, explicit: Option<&Path>) -> Result<Kernel, KernelError> {
        self.store().resolve(explicit, &self.path("data"))
    }

    fn cached(&self) -> usize {
        fs::read_dir(self.path("cache")).unwrap().count()
    }
}

#[test]
fn a_vmlinux_comes_out_of_every_compression_as_it_went_in() {
    let elf = big_vmlinux();
    let xz = {
        let mut out = Vec::new();
        liblzma::read::XzEncoder::new(elf.as_slice(), 1).read_to_end(&mut out).unwrap();
        out
    };
    let zstd = {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.write_all(&elf).unwrap();
        encoder.finish().unwrap()
    };
    let payloads = [
        ("gzip", gzip(&elf)),
        ("xz", with_size(xz, elf.len())),
        ("zstd", with_size(zstd, elf.len())),
        ("lz4", with_size(lz4(&elf, 64 << 10), elf.len())),
        ("none", with_size(elf.clone(), elf.len())),
    ];
    for (name, payload) in payloads {
        let host = Host::new();
        let image = host.write("k/vmlinuz", &bzimage("6.1.0-x", &payload));
        let kernel = host.resolve(Some(&image)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(fs::read(&kernel.vmlinux).unwrap(), elf, "{name}");
        assert_eq!((kernel.version.as_str(), kernel.modules), ("6.1.0-x", None), "{name}");
        assert_eq!(host.cached(), 1, "{name}");
    }
}

/// What the programs make that a kernel's build calls (scripts/Makefile.lib).
#[test]
#[expect(clippy::disallowed_methods, reason = "a test compresses by the system's programs")]
fn a_vmlinux_comes_out_of_what_the_system_s_programs_make_of_it() {
    let elf = big_vmlinux();
    let programs: [(&str, &[&str], bool); 6] = [
        ("gzip", &["-n", "-9", "-c"], false),
        ("bzip2", &["-9", "-c"], true),
        ("xz", &["--check=crc32", "--x86", "--lzma2=dict=128MiB", "-c"], true),
        ("zstd", &["-19", "-c"], true),
        ("zstd", &["-22", "--ultra", "-c"], true),
        ("lz4", &["-l", "-9", "-c"], true),
    ];
    for (program, args, sized) in programs {
        let host = Host::new();
        let plain = host.write("vmlinux.plain", &elf);
        let input = fs::File::open(&plain).unwrap();
        let packed = std::process::Command::new(program).args(args).stdin(input).output();
        let packed = match packed {
            Ok(output) if output.status.success() => output.stdout,
            Ok(output) => panic!("{program}: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => {
                println!("SKIPPED a_vmlinux_comes_out_of_what_{program}_makes: {error}");
                continue;
            }
        };
        let payload = if sized { with_size(packed, elf.len()) } else { packed };
        let image = host.write("k/vmlinuz", &bzimage("6.1.0-x", &payload));
        let kernel = host.resolve(Some(&image)).unwrap_or_else(|e| panic!("{program}: {e}"));
        assert_ne!(kernel.vmlinux, image, "{program}: it was not extracted");
        assert_eq!(fs::read(&kernel.vmlinux).unwrap(), elf, "{program} {args:?}");
    }
}

#[test]
fn kernels_are_listed_with_where_they_are_from() {
    let host = Host::new();
    host.write("data/debian/boot/vmlinuz-6.1.0-9", &bzimage("6.1.0-9", &gzip(&vmlinux(PVH))));
    host.write("data/6.12-innkeeper/vmlinux", &vmlinux(PVH));
    host.write("data/6.12-innkeeper/built", b"6.12.1-innkeeper\n");
    host.write("data/.new.x/vmlinux", &vmlinux(PVH));
    host.write("data/empty/notes", b"");
    host.write("host/boot/vmlinuz-5.10", &bzimage("5.10", &gzip(&vmlinux(PVH))));
    fs::create_dir_all(host.path("host/lib/modules/5.10")).unwrap();
    let listed = host.store().list(&host.path("data")).unwrap();
    let seen: Vec<_> =
        listed.iter().map(|k| (k.name.as_str(), k.version.as_str(), k.origin)).collect();
    let expected = [
        ("6.12-innkeeper", "6.12.1-innkeeper", KernelOrigin::Built),
        ("debian", "6.1.0-9", KernelOrigin::Package),
        ("5.10", "5.10", KernelOrigin::Host),
    ];
    assert_eq!(seen, expected);
    assert!(listed.iter().all(|kernel| kernel.bytes.get() > 0));
    // One that was built is booted when somebody says so, and not for its number.
    let image = host.store().image(None, &host.path("data")).unwrap();
    assert!(image.ends_with("debian/boot/vmlinuz-6.1.0-9"), "{}", image.display());
}

#[test]
fn a_second_look_is_answered_from_the_cache_and_a_changed_file_is_read_again() {
    let host = Host::new();
    let image = host.write("k/vmlinuz-6.1", &bzimage("6.1", &gzip(&big_vmlinux())));
    let store = host.store();
    let first = store.resolve(Some(&image), &host.path("data")).unwrap();
    assert_eq!(store.resolve(Some(&image), &host.path("data")).unwrap(), first);
    assert_eq!(host.resolve(Some(&image)).unwrap(), first, "also in another life");

    fs::remove_file(&first.vmlinux).unwrap();
    assert!(
        store.resolve(Some(&image), &host.path("data")).unwrap().vmlinux.exists(),
        "made again"
    );

    host.write("k/vmlinuz-6.1", &bzimage("6.1", &gzip(&vmlinux(PVH))));
    let second = store.resolve(Some(&image), &host.path("data")).unwrap();
    assert_ne!(second.digest, first.digest);
    assert_eq!(fs::read(second.vmlinux).unwrap(), vmlinux(PVH));
}

#[test]
fn a_damaged_or_lying_payload_is_refused_and_leaves_nothing() {
    let elf = big_vmlinux();
    let mut torn = gzip(&elf);
    torn.truncate(torn.len() / 2);
    let cases = [
        ("gzip", torn),
        ("larger than said", with_size(lz4(&elf, 64 << 10), elf.len() - 1)),
        ("smaller than said", with_size(lz4(&elf, 64 << 10), elf.len() + 1)),
        (
            "lz4 block past the end",
            with_size(vec![0x02, 0x21, 0x4c, 0x18, 0xff, 0xff, 0xff, 0x7f, 0], 10),
        ),
    ];
    for (name, payload) in cases {
        let host = Host::new();
        let image = host.write("k/vmlinuz", &bzimage("6.1", &payload));
        let refusal = host.resolve(Some(&image)).unwrap_err().to_string();
        assert!(refusal.contains("vmlinuz") && refusal.contains("damaged"), "{name}: {refusal}");
        assert_eq!(host.cached(), 0, "{name}");
    }
}

#[test]
fn what_cannot_be_extracted_boots_as_it_is() {
    for payload in
        [with_size(b"\x89LZO\0\r\n\x1a\n....".to_vec(), 9), gzip(&vmlinux(7)), Vec::new()]
    {
        let host = Host::new();
        let image = host.write("k/vmlinuz-6.1", &bzimage("6.1", &payload));
        assert_eq!(host.resolve(Some(&image)).unwrap().vmlinux, image);
        assert_eq!(host.cached(), 0);
    }
}

#[test]
fn an_elf_kernel_is_used_in_place_if_it_can_be_entered() {
    let host = Host::new();
    let good = host.write("k/vmlinux", &vmlinux(PVH));
    assert_eq!(host.resolve(Some(&good)).unwrap().vmlinux, good);
    let bad = host.write("k/vmlinux-old", &vmlinux(7));
    assert!(host.resolve(Some(&bad)).unwrap_err().to_string().contains("PVH"));
}

#[test]
fn the_newest_kernel_is_found_with_its_modules() {
    let host = Host::new();
    let image = |version: &str| bzimage(version, &gzip(&vmlinux(PVH)));
    host.write("host/boot/vmlinuz-6.12", &image("6.12"));
    fs::create_dir_all(host.path("host/lib/modules/6.12")).unwrap();
    host.write("host/boot/vmlinuz-6.13", &image("6.13"));
    let kernel = host.resolve(None).unwrap();
    assert_eq!(kernel.version, "6.12", "a host's kernel without modules is no use");
    assert_eq!(kernel.modules, Some(host.path("host/lib/modules/6.12")));

    // What was put into the data directory goes before the host's.
    host.write("data/debian/boot/vmlinuz-6.1.0-9", &image("6.1.0-9"));
    host.write("data/debian-new/boot/vmlinuz-6.1.0-56", &image("6.1.0-56"));
    fs::create_dir_all(host.path("data/debian-new/usr/lib/modules/6.1.0-56")).unwrap();
    host.write("data/flat/vmlinuz", &image("5.10"));
    let kernel = host.resolve(None).unwrap();
    assert_eq!(kernel.version, "6.1.0-56");
    assert_eq!(kernel.modules, Some(host.path("data/debian-new/usr/lib/modules/6.1.0-56")));

    fs::create_dir_all(host.path("data/flat/modules/kernel")).unwrap();
    let flat = host.resolve(Some(&host.path("data/flat"))).unwrap();
    assert_eq!(
        (flat.version.as_str(), flat.modules),
        ("5.10", Some(host.path("data/flat/modules")))
    );
}

#[test]
fn absence_and_rubbish_get_a_sentence_with_the_way_out() {
    let host = Host::new();
    let refusal = host.resolve(None).unwrap_err().to_string();
    for part in ["data", "host/boot", "linux-image-cloud-amd64", "dpkg -x", "--kernel"] {
        assert!(refusal.contains(part), "{part} in: {refusal}");
    }
    let missing = host.resolve(Some(Path::new("/nonexistent/vmlinuz"))).unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/vmlinuz"), "{missing}");
    let text = host.write("k/vmlinuz", b"not a kernel");
    assert!(host.resolve(Some(&text)).unwrap_err().to_string().contains("neither a bzImage"));
    fs::create_dir_all(host.path("empty")).unwrap();
    assert!(
        host.resolve(Some(&host.path("empty")))
            .unwrap_err()
            .to_string()
            .contains("holds no kernel")
    );
}

#[test]
fn an_initramfs_is_made_once_per_input() {
    let host = Host::new();
    let image = host.write("k/vmlinuz", &bzimage("6.1", &gzip(&vmlinux(PVH))));
    let store = host.store();
    let kernel = store.resolve(Some(&image), &host.path("data")).unwrap();
    let make =
        |guest: &[u8]| store.initramfs(&kernel, GuestBinary::new(guest), ModuleSet::Mmio).unwrap();
    let first = make(b"guest");
    assert_eq!(make(b"guest"), first);
    assert_ne!(make(b"another guest"), first);
    assert_eq!(
        host.store().initramfs(&kernel, GuestBinary::new(b"guest"), ModuleSet::Mmio).unwrap(),
        first,
        "also in another life"
    );
    assert_eq!(host.cached(), 3);
}

proptest::proptest! {
    #[test]
    fn damaged_headers_never_panic(at in 0usize..0x260, byte in proptest::prelude::any::<u8>(), cut in 0usize..1300) {
        let mut image = bzimage("6.1", &gzip(&vmlinux(PVH)));
        image[at] = byte;
        image.truncate(cut.max(0x260));
        if let Some(extract::Image::BzImage(bz)) = extract::recognise(&image) {
            let _ = bz.extract(&mut tempfile::tempfile().unwrap());
        }
    }
}
