use crate::ext4::MAX_NAME;

/// PATH_MAX of Linux: no process in the guest could use a longer name.
const MAX_PATH: usize = 4096;

/// What a layer's name means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// The root directory itself.
    Root,
    /// A name in a directory, the directory's components first.
    Name { dir: Vec<&'a [u8]>, name: &'a [u8] },
    /// `.wh.NAME`: what lower layers have there is gone.
    Whiteout { dir: Vec<&'a [u8]>, name: &'a [u8] },
    /// `.wh..wh..opq`: all that lower layers have in the directory is gone.
    Opaque { dir: Vec<&'a [u8]> },
    /// Bookkeeping of AUFS, which means nothing in an image.
    Ignored,
}

/// Reads an entry's name (OCI image spec 1.1, layer.md). `.` and empty
/// components mean nothing; whatever could lead out of the root is refused.
pub(super) fn target(name: &[u8]) -> Result<Target<'_>, &'static str> {
    let mut dir = components(name)?;
    let Some(last) = dir.pop() else { return Ok(Target::Root) };
    let Some(hidden) = last.strip_prefix(b".wh.") else {
        return Ok(Target::Name { dir, name: last });
    };
    match hidden {
        b".wh..opq" => Ok(Target::Opaque { dir }),
        _ if hidden.starts_with(b".wh.") => Ok(Target::Ignored),
        b"" | b"." | b".." => Err("is a whiteout that names nothing"),
        name => Ok(Target::Whiteout { dir, name }),
    }
}

/// A name's components from the root on.
pub(super) fn components(name: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    if name.is_empty() {
        return Err("has no name");
    }
    if name.contains(&0) {
        return Err("has a NUL byte in its name");
    }
    if name.len() > MAX_PATH {
        return Err("has a name of more than 4,096 bytes");
    }
    let parts: Vec<&[u8]> =
        name.split(|&c| c == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if name.starts_with(b"/") && !parts.is_empty() {
        return Err("has an absolute name, which could lead out of the image's root");
    }
    if parts.contains(&b"..".as_slice()) {
        return Err("has `..` in its name, which could lead out of the image's root");
    }
    if parts.iter().any(|part| part.len() > MAX_NAME) {
        return Err("has a component of more than 255 bytes in its name");
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_the_image_spec_says() {
        let dir = || vec![b"a".as_slice()];
        assert_eq!(target(b"./"), Ok(Target::Root));
        assert_eq!(target(b"/"), Ok(Target::Root));
        assert_eq!(target(b"./a//b/"), Ok(Target::Name { dir: dir(), name: b"b" }));
        assert_eq!(target(b"a/.wh.b"), Ok(Target::Whiteout { dir: dir(), name: b"b" }));
        assert_eq!(target(b"a/.wh..wh..opq"), Ok(Target::Opaque { dir: dir() }));
        assert_eq!(target(b".wh..wh.plnk"), Ok(Target::Ignored));
        assert_eq!(target(b"a/...b"), Ok(Target::Name { dir: dir(), name: b"...b" }));
    }

    #[test]
    fn names_that_could_leave_the_root_are_refused() {
        let long = vec![b'x'; 256];
        let deep = b"x/".repeat(2049);
        for name in [
            b"".as_slice(),
            b"../a",
            b"a/../b",
            b"a/..",
            b"/etc/passwd",
            b"a\0b",
            b".wh.",
            b".wh...",
            b"a/.wh..",
            &long,
            &deep,
        ] {
            assert!(target(name).is_err(), "{}", String::from_utf8_lossy(name));
        }
    }
}
