//! The newc form of cpio, the only one that the kernel reads
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// Owned by root, dated 1970: equal inputs give equal archives.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;

/// Names and contents begin at multiples of this.
const ALIGNMENT: usize = 4;

impl Archive {
    pub(super) fn directory(&mut self, path: &str, mode: u32) {
        self.entry(path, DIRECTORY | mode, 2, (0, 0), &[]);
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, REGULAR | mode, 1, (0, 0), content);
    }

    pub(super) fn device(&mut self, path: &str, mode: u32, number: (u32, u32)) {
        self.entry(path, CHARACTER | mode, 1, number, &[]);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, 1, (0, 0), &[]);
        self.bytes
    }

    /// `path` is relative: the kernel unpacks into `/`.
    fn entry(&mut self, path: &str, mode: u32, links: u32, device: (u32, u32), content: &[u8]) {
        let size = u32::try_from(content.len())
            .expect("what goes into an initramfs is bounded far below 4 GiB");
        let name_size = u32::try_from(path.len() + 1).expect("names are our own and short");
        let fields = [
            self.entries, // inode
            mode,
            0, // uid
            0, // gid
            links,
            0, // mtime
            size,
            0, // major and minor of the device that holds the file
            0,
            device.0,
            device.1,
            name_size,
            0, // checksum: of the crc form alone
        ];
        self.entries += 1;
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}
