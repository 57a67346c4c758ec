//! As much of ELF as kernels and their modules ask for (System V ABI,
//! "Object Files"): is this a vmlinux that boots, and what stands in a
//! section. Every offset comes from the file and is believed only as far as a
//! bounded read goes.

use std::io::{Cursor, Read, Seek, SeekFrom};

/// Where a PVH loader enters, `XEN_ELFNOTE_PHYS32_ENTRY`
/// (xen/include/public/elfnote.h).
const NOTE_PHYS32_ENTRY: u32 = 18;

const EM_X86_64: u16 = 62;
const PT_NOTE: u32 = 4;

/// A vmlinux has a handful of segments, a module some sixty sections.
const MAX_HEADERS: u16 = 4096;
const MAX_NOTES: u64 = 1 << 20;
const MAX_SECTION: u64 = 16 << 20;

pub(crate) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF\x02\x01")
}

/// Whether QEMU can enter this vmlinux: it wants the PVH note
/// (hw/i386/x86.c, `load_elfboot`).
pub(crate) fn check_bootable(file: &mut (impl Read + Seek)) -> Result<(), String> {
    let header = read_header(file)?;
    let [phoff, phentsize, phnum] =
        [u64_at(&header, 32), u16_at(&header, 54).into(), u16_at(&header, 56).into()];
    for segment in table(file, phoff, phentsize, phnum)? {
        if u32_at(&segment, 0) != PT_NOTE {
            continue;
        }
        let (offset, size) = (u64_at(&segment, 8), u64_at(&segment, 32));
        if size > MAX_NOTES {
            return Err(format!("has {size} bytes of ELF notes"));
        }
        if has_pvh_note(&read_at(file, offset, size)?) {
            return Ok(());
        }
    }
    Err("has no PVH entry point (CONFIG_PVH=y makes one); give its bzImage (vmlinuz) instead"
        .into())
}

/// The bytes of the section `name` of an ELF object; `None` if it has none.
pub(crate) fn section(object: &[u8], name: &str) -> Result<Option<Vec<u8>>, String> {
    let file = &mut Cursor::new(object);
    let header = read_header(file)?;
    let [shoff, shentsize, shnum] =
        [u64_at(&header, 40), u16_at(&header, 58).into(), u16_at(&header, 60).into()];
    let sections = table(file, shoff, shentsize, shnum)?;
    let Some(names) = sections.get(usize::from(u16_at(&header, 62))) else {
        return Err("has no section names".into());
    };
    let names = read_section(file, names)?;
    for section in &sections {
        let at = u32_at(section, 0) as usize;
        let is_it = names
            .get(at..)
            .and_then(|rest| rest.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0));
        if is_it {
            return read_section(file, section).map(Some);
        }
    }
    Ok(None)
}

fn has_pvh_note(mut notes: &[u8]) -> bool {
    // Three words, then name and descriptor, each padded to 4 bytes.
    while notes.len() >= 12 {
        let (name_size, desc_size, kind) = (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8));
        let padded = |n: u32| (n as usize).next_multiple_of(4);
        let (name, desc) = (padded(name_size), padded(desc_size));
        if kind == NOTE_PHYS32_ENTRY && notes.get(12..16) == Some(b"Xen\0") && desc > 0 {
            return true;
        }
        match notes.get(12 + name + desc..) {
            Some(rest) => notes = rest,
            None => return false,
        }
    }
    false
}

fn read_header(file: &mut (impl Read + Seek)) -> Result<Vec<u8>, String> {
    let header = read_at(file, 0, 64)?;
    if !is_elf(&header) || u16_at(&header, 18) != EM_X86_64 {
        return Err("is no ELF file for x86-64".into());
    }
    Ok(header)
}

fn read_section(file: &mut (impl Read + Seek), section: &[u8]) -> Result<Vec<u8>, String> {
    let (offset, size) = (u64_at(section, 24), u64_at(section, 32));
    if size > MAX_SECTION {
        return Err(format!("has a section of {size} bytes"));
    }
    read_at(file, offset, size)
}

/// The entries of a header table, each of the 64-bit format's size.
fn table(
    file: &mut (impl Read + Seek),
    offset: u64,
    entry: u64,
    count: u64,
) -> Result<Vec<Vec<u8>>, String> {
    // 56 is a program header, 64 a section header; a longer one has unknown fields at its end.
    if count > MAX_HEADERS.into() || (count > 0 && !(56..=256).contains(&entry)) {
        return Err(format!("has {count} ELF headers of {entry} bytes"));
    }
    let bytes = read_at(file, offset, entry * count)?;
    Ok(bytes.chunks(usize::try_from(entry.max(1)).unwrap_or(1)).map(<[u8]>::to_vec).collect())
}

fn read_at(file: &mut (impl Read + Seek), offset: u64, size: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read =
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.take(size).read_to_end(&mut bytes));
    match read {
        Ok(n) if n as u64 == size => Ok(bytes),
        Ok(_) => Err("ends before its ELF headers say".into()),
        Err(e) => Err(format!("cannot be read: {e}")),
    }
}

/// Callers index within what they have checked the length of.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A relocatable object with one section of content, as a linker would lay it out.
    pub(crate) fn object(name: &str, content: &[u8]) -> Vec<u8> {
        let names = format!("\0{name}\0.shstrtab\0");
        let content_at = 64;
        let names_at = content_at + content.len();
        let headers_at = names_at + names.len();
        let mut out = b"\x7fELF\x02\x01\x01".to_vec();
        out.resize(16, 0);
        out.extend(1u16.to_le_bytes());
        out.extend(EM_X86_64.to_le_bytes());
        out.resize(40, 0);
        out.extend((headers_at as u64).to_le_bytes());
        out.resize(58, 0);
        for n in [64u16, 3, 2] {
            out.extend(n.to_le_bytes());
        }
        out.extend(content);
        out.extend(names.as_bytes());
        for (name_at, at, size) in
            [(0, 0, 0), (1, content_at, content.len()), (2 + name.len(), names_at, names.len())]
        {
            let start = out.len();
            out.extend(u32::try_from(name_at).unwrap().to_le_bytes());
            out.resize(start + 24, 0);
            out.extend((at as u64).to_le_bytes());
            out.extend((size as u64).to_le_bytes());
            out.resize(start + 64, 0);
        }
        out
    }

    /// An executable with one note segment.
    pub(crate) fn vmlinux(note_kind: u32) -> Vec<u8> {
        let mut out = b"\x7fELF\x02\x01\x01".to_vec();
        out.resize(18, 0);
        out.extend(EM_X86_64.to_le_bytes());
        out.resize(32, 0);
        out.extend(64u64.to_le_bytes());
        out.resize(54, 0);
        out.extend(56u16.to_le_bytes());
        out.extend(1u16.to_le_bytes());
        out.resize(64, 0);
        out.extend(PT_NOTE.to_le_bytes());
        out.resize(72, 0);
        out.extend(120u64.to_le_bytes());
        out.resize(96, 0);
        out.extend(40u64.to_le_bytes());
        out.resize(120, 0);
        for (kind, desc) in [(6u32, *b"linu"), (note_kind, [0, 0, 0, 1])] {
            for n in [4u32, 4, kind] {
                out.extend(n.to_le_bytes());
            }
            out.extend(b"Xen\0");
            out.extend(desc);
        }
        out
    }

    #[test]
    fn the_entry_note_decides() {
        check_bootable(&mut Cursor::new(vmlinux(NOTE_PHYS32_ENTRY))).unwrap();
        let refusal = check_bootable(&mut Cursor::new(vmlinux(7))).unwrap_err();
        assert!(refusal.contains("PVH"), "{refusal}");
    }

    #[test]
    fn finds_a_section_by_its_whole_name() {
        let object = object(".modinfo", b"name=x\0");
        assert_eq!(section(&object, ".modinfo").unwrap().unwrap(), b"name=x\0");
        assert_eq!(section(&object, ".mod").unwrap(), None);
    }

    proptest! {
        #[test]
        fn damaged_files_are_refused_or_read_never_a_panic(at in 0usize..300, byte in any::<u8>(), cut in 0usize..400) {
            let mut damaged = object(".modinfo", b"depends=a,b\0");
            let cut = cut.min(damaged.len());
            if let Some(b) = damaged.get_mut(at) { *b = byte; }
            let _ = section(&damaged, ".modinfo");
            let _ = section(&damaged[..cut], ".modinfo");
            let mut damaged = vmlinux(NOTE_PHYS32_ENTRY);
            if let Some(b) = damaged.get_mut(at) { *b = byte; }
            let _ = check_bootable(&mut Cursor::new(&damaged));
        }
    }
}
