//! A guest of one file of some 200 bytes, for tests that need a machine to
//! end in a given way and nothing else.

/// What the guest's only program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TinyEnd {
    PowerOff,
    Reset,
    /// It does not end, and prints a dot twenty times a second.
    Never,
}

/// Where the kernel loads the program; any page of the lower half would do.
const BASE: u64 = 0x40_0000;

const TICK_NANOSECONDS: u64 = 50_000_000;

/// An ELF header and one program header (elf(5)).
const HEADERS: usize = 64 + 56;

/// An uncompressed initramfs for x86-64 Linux whose /init prints `line` to the
/// console and then ends the machine, or not.
pub fn tiny_initramfs(line: &str, end: TinyEnd) -> Vec<u8> {
    let mut archive = Vec::new();
    cpio_entry(&mut archive, "init", 0o100_755, &program(line, end));
    cpio_entry(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

fn program(line: &str, end: TinyEnd) -> Vec<u8> {
    // linux/reboot.h
    let command: Option<u32> = match end {
        TinyEnd::PowerOff => Some(0x4321_fedc),
        TinyEnd::Reset => Some(0x0123_4567),
        TinyEnd::Never => None,
    };
    let length = u32::try_from(line.len()).expect("a line");
    let mut code = Vec::new();
    // write(1, line, length)
    code.extend_from_slice(&[0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0xba]);
    code.extend_from_slice(&length.to_le_bytes());
    code.extend_from_slice(&[0x48, 0x8d, 0x35]); // lea rsi, [rip + …]
    let patch = code.len();
    code.extend_from_slice(&[0; 4]);
    code.extend_from_slice(&[0x0f, 0x05]);
    // reboot(0xfee1dead, 0x28121969, command, 0)
    if let Some(command) = command {
        code.extend_from_slice(&[0xb8, 169, 0, 0, 0, 0xbf, 0xad, 0xde, 0xe1, 0xfe]);
        code.extend_from_slice(&[0xbe, 0x69, 0x19, 0x12, 0x28, 0xba]);
        code.extend_from_slice(&command.to_le_bytes());
        code.extend_from_slice(&[0x0f, 0x05]);
    }
    // for ever: nanosleep(&tick, 0), write(1, ".", 1)
    let again = code.len();
    code.extend_from_slice(&[0xb8, 35, 0, 0, 0, 0x48, 0x8d, 0x3d]); // lea rdi, [rip + …]
    let tick = code.len();
    code.extend_from_slice(&[0; 4]);
    code.extend_from_slice(&[0x31, 0xf6, 0x0f, 0x05]);
    code.extend_from_slice(&[0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0xba, 1, 0, 0, 0]);
    code.extend_from_slice(&[0x48, 0x8d, 0x35]);
    let dot = code.len();
    code.extend_from_slice(&[0; 4]);
    code.extend_from_slice(&[0x0f, 0x05, 0xeb]);
    let back = code.len() + 1 - again;
    code.push(u8::try_from(back).expect("a short loop").wrapping_neg());
    let point_here = |from: usize, code: &mut Vec<u8>| {
        let distance = u32::try_from(code.len() - (from + 4)).expect("a short program");
        code[from..from + 4].copy_from_slice(&distance.to_le_bytes());
    };
    point_here(tick, &mut code);
    for word in [0, TICK_NANOSECONDS] {
        code.extend_from_slice(&word.to_le_bytes()); // struct timespec
    }
    point_here(dot, &mut code);
    code.push(b'.');
    point_here(patch, &mut code);
    code.extend_from_slice(line.as_bytes());

    let size = (HEADERS + code.len()) as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64
    for word in [BASE + HEADERS as u64, 64, 0] {
        elf.extend_from_slice(&word.to_le_bytes()); // entry, program and section headers
    }
    elf.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]); // load, read and execute
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(&code);
    elf
}

/// The format "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).
fn cpio_entry(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let sizes = [data.len(), 0, 0, 0, 0, name.len() + 1, 0];
    archive.extend_from_slice(b"070701");
    for field in [1, mode, 0, 0, 1, 0] {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    for field in sizes {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(data);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}
