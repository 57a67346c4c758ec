//! From a bzImage to the vmlinux inside it.
//!
//! Booting the vmlinux saves the guest from unpacking it, which an emulated
//! CPU takes 130 ms and more for. The layout is the kernel's
//! Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header": the header
//! says where the payload lies; the payload is one compressed stream in any of
//! the formats that the kernel can be configured for, and all but gzip have
//! the unpacked size appended (scripts/Makefile.lib, `size_append`).

use std::fs::File;
use std::io::{self, Read, Write};

use super::elf;
use super::{KernelError, MAX_KERNEL};

/// What an image file is, by its first bytes.
#[derive(Debug)]
pub(super) enum Image<'a> {
    Elf,
    BzImage(BzImage<'a>),
}

#[derive(Debug)]
pub(super) struct BzImage<'a> {
    payload: &'a [u8],
    version: &'a str,
}

/// boot.rst: payload_offset and payload_length came with protocol 2.08.
const FIRST_WITH_PAYLOAD: u16 = 0x0208;

/// How much an xz stream may ask for: the kernel uses dictionaries of 128 MiB.
const XZ_MEMORY: u64 = 192 << 20;

/// The legacy LZ4 frame (lz4_Frame_format.md, "Legacy frame"): blocks of at
/// most 8 MiB when unpacked.
const LZ4_BLOCK: usize = 8 << 20;
const LZ4_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];

pub(super) fn recognise(image: &[u8]) -> Option<Image<'_>> {
    if elf::is_elf(image) {
        return Some(Image::Elf);
    }
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let u32_at =
        |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let u16_at = |at: usize| Some(u16::from_le_bytes(image.get(at..at + 2)?.try_into().ok()?));
    // boot.rst: for backwards compatibility 0 means 4.
    let setup_sectors = match *image.get(0x1f1)? {
        0 => 4,
        n => usize::from(n),
    };
    let payload = if u16_at(0x206)? >= FIRST_WITH_PAYLOAD {
        let start = (setup_sectors + 1) * 512 + u32_at(0x248)?;
        image.get(start..start.checked_add(u32_at(0x24c)?)?)?
    } else {
        &[]
    };
    // kernel_version points 0x200 before the text, `VERSION (builder) …`.
    let version = image
        .get(usize::from(u16_at(0x20e)?) + 0x200..)
        .filter(|_| u16_at(0x20e) != Some(0))
        .and_then(|text| text.get(..text.iter().take(256).position(|b| b" \0".contains(b))?))
        .and_then(|text| std::str::from_utf8(text).ok())
        .unwrap_or("");
    Some(Image::BzImage(BzImage { payload, version }))
}

impl BzImage<'_> {
    pub(super) fn version(&self) -> &str {
        self.version
    }

    /// Writes the vmlinux and checks that it would boot.
    pub(super) fn extract(&self, out: &mut File) -> Result<(), KernelError> {
        let (body, size) = match self.payload {
            gzip if gzip.starts_with(&[0x1f, 0x8b]) => (gzip, None),
            other => match other.split_last_chunk::<4>() {
                Some((body, size)) => (body, Some(u64::from(u32::from_le_bytes(*size)))),
                None => {
                    return Err(KernelError::Unextractable { why: "it names no payload".into() });
                }
            },
        };
        let damaged = |e: io::Error| KernelError::Payload { why: format!("is damaged: {e}") };
        let mut bounded = Bounded {
            out,
            left: size.unwrap_or(u64::MAX).min(MAX_KERNEL.get()),
            written: 0,
            failed: None,
        };
        let unpacked = match body {
            [0x1f, 0x8b, ..] => copy(flate2::read::GzDecoder::new(body), &mut bounded),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                zstd::Decoder::with_buffer(body).and_then(|d| copy(d, &mut bounded))
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
                liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0)
                    .map_err(io::Error::from)
                    .and_then(|s| {
                        copy(liblzma::bufread::XzDecoder::new_stream(body, s), &mut bounded)
                    })
            }
            [b'B', b'Z', b'h', ..] => copy(bzip2::bufread::BzDecoder::new(body), &mut bounded),
            body if body.starts_with(&LZ4_MAGIC) => {
                unpack_lz4(&body[LZ4_MAGIC.len()..], &mut bounded)
            }
            body if elf::is_elf(body) => copy(body, &mut bounded),
            _ => {
                return Err(KernelError::Unextractable {
                    why: "its compression is not gzip, xz, zstd, lz4 or bzip2".into(),
                });
            }
        };
        let written = bounded.written;
        if let Some(source) = bounded.failed {
            return Err(KernelError::Write(source));
        }
        unpacked.map_err(damaged)?;
        if let Some(size) = size.filter(|size| *size != written) {
            return Err(KernelError::Payload {
                why: format!("is damaged: {written} bytes where it promises {size}"),
            });
        }
        elf::check_bootable(out)
            .map_err(|why| KernelError::Unextractable { why: format!("it {why}") })
    }
}

fn copy(mut from: impl Read, to: &mut impl Write) -> io::Result<()> {
    io::copy(&mut from, to).map(drop)
}

fn unpack_lz4(mut rest: &[u8], out: &mut impl Write) -> io::Result<()> {
    let mut block = vec![0; LZ4_BLOCK];
    while let Some((size, after)) = rest.split_first_chunk::<4>() {
        rest = after;
        // Streams may follow one another, each with its magic.
        if *size == LZ4_MAGIC {
            continue;
        }
        let packed = rest.split_off(..u32::from_le_bytes(*size) as usize).ok_or_else(|| {
            io::Error::new(io::ErrorKind::UnexpectedEof, "an LZ4 block is cut short")
        })?;
        let n = lz4_flex::block::decompress_into(packed, &mut block).map_err(io::Error::other)?;
        out.write_all(&block[..n])?;
    }
    Ok(())
}

/// Writes no more than promised, and keeps the output's own errors apart from
/// those of the input.
#[derive(Debug)]
struct Bounded<'a> {
    out: &'a mut File,
    left: u64,
    written: u64,
    failed: Option<io::Error>,
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "it unpacks to more than it promises")
        })?;
        if let Err(e) = self.out.write_all(bytes) {
            self.failed = Some(e);
            return Err(io::Error::other("the output failed"));
        }
        self.written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
