use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::kernel::KernelError;
use crate::kernel::elf;

/// Which devices the machine has: what it has not needs no module, and each
/// module less is a few milliseconds less of an emulated boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModuleSet {
    /// virtio devices on MMIO: QEMU's microvm, Firecracker.
    Mmio,
    /// virtio devices on PCI: q35.
    Pci,
}

/// An uncompressed module, ready to be loaded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// As the kernel calls it: `virtio_rng`, also where the file has a hyphen.
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// The largest that a distribution has is a GPU driver of some 20 MiB.
const MAX_MODULE: u64 = 32 << 20;

/// Debian's full kernel has 4,000 modules in 1,000 directories.
const MAX_FILES: usize = 100_000;
const MAX_DEPTH: usize = 16;

const SUFFIXES: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];

impl ModuleSet {
    /// In the order of urgency: the transport and the agent's channel first,
    /// so that the host hears of the guest while the rest still loads.
    fn wanted(self) -> &'static [&'static str] {
        match self {
            Self::Mmio => {
                &["virtio_mmio", "virtio_console", "virtio_blk", "ext4", "overlay", "virtio_net"]
            }
            Self::Pci => {
                &["virtio_pci", "virtio_console", "virtio_blk", "ext4", "overlay", "virtio_net"]
            }
        }
    }
}

/// The guest's end of a vsock. Not in every kernel, and of no use without the
/// device: it is brought along for a few KiB and loaded only where it is asked
/// for.
const VSOCK: &str = "vmw_vsock_virtio_transport";

/// Modules in the order to load.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Picked {
    pub(super) always: Vec<Module>,
    /// What else a vsock needs.
    pub(super) vsock: Vec<Module>,
}

/// What `set` needs of the kernel's modules, each after those it depends on.
///
/// Dependencies are read from the modules themselves: `modules.dep` is made
/// by depmod when a package is installed, and an unpacked one has none.
pub(super) fn pick(dir: &Path, set: ModuleSet) -> Result<Picked, KernelError> {
    let tree = Tree { dir, files: index(dir)?, builtin: read_builtin(dir)? };
    let mut picked = Picked::default();
    let mut seen = BTreeSet::new();
    for name in set.wanted() {
        tree.add(name, &mut seen, &mut picked.always)?;
    }
    if tree.files.contains_key(VSOCK) {
        tree.add(VSOCK, &mut seen, &mut picked.vsock)?;
    }
    Ok(picked)
}

struct Tree<'a> {
    dir: &'a Path,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl Tree<'_> {
    fn add(
        &self,
        name: &str,
        seen: &mut BTreeSet<String>,
        picked: &mut Vec<Module>,
    ) -> Result<(), KernelError> {
        let name = canonical(name);
        // A module is seen before its dependencies are: a circle ends here.
        if self.builtin.contains(&name) || !seen.insert(name.clone()) {
            return Ok(());
        }
        let Some(path) = self.files.get(&name) else {
            return Err(self.missing(name));
        };
        let bytes = read_module(path)?;
        let info = elf::section(&bytes, ".modinfo")
            .map_err(|why| KernelError::bad_module(path, why))?
            .ok_or_else(|| {
                KernelError::bad_module(path, "has no .modinfo section: it is no kernel module")
            })?;
        let needs = Needs::parse(&info);
        for name in needs.hard {
            self.add(&name, seen, picked)?;
        }
        for name in needs.soft {
            if self.files.contains_key(&canonical(&name)) {
                self.add(&name, seen, picked)?;
            }
        }
        picked.push(Module { name, bytes });
        Ok(())
    }

    fn missing(&self, module: String) -> KernelError {
        KernelError::MissingModule {
            module,
            version: self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            dir: self.dir.to_owned(),
            hint: "install the kernel's whole package, or choose another kernel with --kernel",
        }
    }
}

/// What a module's `.modinfo` says that it needs: `key=value` texts, each
/// ended by a zero byte (include/linux/moduleparam.h, `__MODULE_INFO`).
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    hard: Vec<String>,
    /// To be loaded before, if they are there.
    soft: Vec<String>,
}

impl Needs {
    fn parse(modinfo: &[u8]) -> Self {
        let mut needs = Self::default();
        for text in modinfo.split(|b| *b == 0) {
            let text = String::from_utf8_lossy(text);
            match text.split_once('=') {
                Some(("depends", list)) => {
                    needs
                        .hard
                        .extend(list.split(',').filter(|name| !name.is_empty()).map(str::to_owned));
                }
                Some(("softdep", list)) => {
                    // `pre: a b post: c`
                    let pre = list.split_whitespace().skip_while(|word| *word != "pre:").skip(1);
                    needs.soft.extend(pre.take_while(|word| *word != "post:").map(str::to_owned));
                }
                _ => {}
            }
        }
        needs
    }
}

/// Every module below `kernel/` by its name. Links are not followed: `build`
/// and `source` lead out of the tree.
fn index(dir: &Path) -> Result<BTreeMap<String, PathBuf>, KernelError> {
    let mut files = BTreeMap::new();
    let mut seen = 0;
    let mut todo = vec![(dir.to_owned(), 0)];
    while let Some((dir, depth)) = todo.pop() {
        let io = |e| KernelError::io("look for kernel modules in", &dir, e);
        for entry in fs::read_dir(&dir).map_err(io)? {
            let entry = entry.map_err(io)?;
            let kind = entry.file_type().map_err(io)?;
            seen += 1;
            if seen > MAX_FILES {
                return Err(KernelError::io(
                    "look for kernel modules in",
                    &dir,
                    io::Error::other("there are too many files"),
                ));
            }
            if kind.is_dir() && depth < MAX_DEPTH {
                todo.push((entry.path(), depth + 1));
            } else if kind.is_file()
                && let Some(name) = entry.file_name().to_str().and_then(module_name)
            {
                let path = entry.path();
                // An update below updates/ or a duplicate: whichever, always the same.
                let at = files.entry(name).or_insert_with(|| path.clone());
                if path < *at {
                    *at = path;
                }
            }
        }
    }
    Ok(files)
}

fn module_name(file: &str) -> Option<String> {
    SUFFIXES.iter().find_map(|suffix| file.strip_suffix(suffix)).map(canonical)
}

/// The kernel takes hyphens and underscores in a module's name for the same.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// `modules.builtin` comes with the kernel's package, one path per line.
fn read_builtin(dir: &Path) -> Result<BTreeSet<String>, KernelError> {
    let path = dir.join("modules.builtin");
    let text = match read_bounded(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(KernelError::io("read", &path, e)),
    };
    Ok(parse_builtin(&text))
}

fn parse_builtin(text: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| module_name(line.trim().rsplit('/').next()?)).collect()
}

fn read_module(path: &Path) -> Result<Vec<u8>, KernelError> {
    let packed =
        read_bounded(path).map_err(|e| KernelError::io("read the kernel module", path, e))?;
    unpack(packed).map_err(|e| KernelError::bad_module(path, format!("cannot be unpacked: {e}")))
}

fn unpack(packed: Vec<u8>) -> io::Result<Vec<u8>> {
    match packed.as_slice() {
        [0x1f, 0x8b, ..] => bounded(flate2::read::GzDecoder::new(packed.as_slice())),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => bounded(zstd::Decoder::with_buffer(packed.as_slice())?),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            bounded(liblzma::bufread::XzDecoder::new(packed.as_slice()))
        }
        _ => Ok(packed),
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    bounded(File::open(path)?)
}

fn bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_MODULE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_MODULE {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {MAX_MODULE} bytes"),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod parser_tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn modinfo_names_what_a_module_needs() {
        let info = b"license=GPL\0depends=virtio,virtio_ring\0softdep=pre: crc32c a-b post: late\0softdep=post: x\0depends=\0";
        let expected = Needs {
            hard: vec!["virtio".into(), "virtio_ring".into()],
            soft: vec!["crc32c".into(), "a-b".into()],
        };
        assert_eq!(Needs::parse(info), expected);
    }

    #[test]
    fn builtin_names_are_canonical() {
        let builtin = parse_builtin(
            "kernel/fs/ext4/ext4.ko\nkernel/drivers/char/hw_random/virtio-rng.ko\n\nnot a module\n",
        );
        assert_eq!(builtin.into_iter().collect::<Vec<_>>(), ["ext4", "virtio_rng"]);
    }

    proptest! {
        #[test]
        fn arbitrary_texts_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,200}") {
            let _ = Needs::parse(&bytes);
            let _ = parse_builtin(&text);
        }

        #[test]
        fn needs_survive_their_text(names in prop::collection::vec("[a-z_0-9-]{1,10}", 0..6)) {
            let info = format!("name=x\0depends={}\0", names.join(","));
            prop_assert_eq!(Needs::parse(info.as_bytes()).hard, names);
        }
    }
}
