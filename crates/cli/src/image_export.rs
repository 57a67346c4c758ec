//! `inn image export`: the agent sends a tar of an OCI layout, and it becomes a
//! file or a directory here, of whoever typed it.
//!
//! ```text
//!   agent ─tar─▶ verified, written beside its place ─▶ gets its name
//! ```
//! What fails or is interrupted leaves nothing under that name.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use inn_image::receive_layout;
use serde_json::json;

use crate::args::ExportArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::pipe::{Passing, StreamReader};
use crate::progress::Spinner;
use crate::transfer::blocking;

pub(crate) async fn export(context: &Context, args: &ExportArgs) -> Result<u8, Failure> {
    let place = Place::new(&args.to, args.force)?;
    let stream = context.client().await?.export_image(&args.image).await?;
    let mut spinner = Spinner::start(context, format!("exporting {}", args.image));
    let reader = StreamReader::new(stream, Passing::default());
    let shown = args.to.display().to_string();
    let image = args.image.clone();
    let digest = blocking(move || {
        place.write(reader).map_err(|e| Failure::because(format!("cannot export {image}"), &*e))
    })
    .await?;
    spinner.clear();
    let result = json!({ "image": args.image, "path": args.to, "digest": digest });
    context.result(&result, || format!("{shown} {digest}\n"))?;
    Ok(0)
}

/// Where it goes.
struct Place {
    path: PathBuf,
    /// The directory that `path` is in.
    beside: PathBuf,
    is_tar: bool,
    replaces: bool,
}

type AnyError = Box<dyn std::error::Error>;

impl Place {
    /// Refuses what would overwrite something, before anything is asked of the
    /// agent.
    fn new(path: &Path, force: bool) -> Result<Self, Failure> {
        let shown = path.display();
        let is_tar = path.extension().is_some_and(|extension| extension == "tar");
        let absolute = std::path::absolute(path)
            .map_err(|e| Failure::because(format!("cannot tell where {shown} is"), &e))?;
        let Some(beside) = absolute.parent().map(Path::to_owned) else {
            return Err(Failure::new(format!("{shown} cannot be replaced; name another place")));
        };
        let replaces = match fs::symlink_metadata(&absolute) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(Failure::because(format!("cannot look at {shown}"), &e)),
            Ok(found) if is_tar && !found.is_file() => {
                return Err(Failure::new(format!("{shown} is no file; name another place")));
            }
            Ok(found) if !is_tar && !found.is_dir() => {
                let why = "is no directory; name another one, or a file that ends in .tar";
                return Err(Failure::new(format!("{shown} {why}")));
            }
            // A directory with nothing in it is as good as none.
            Ok(found) if found.is_dir() && is_empty(&absolute) => true,
            Ok(_) if !force => {
                let why = "is there already; --force replaces it";
                return Err(Failure::new(format!("{shown} {why}")));
            }
            Ok(found) if found.is_dir() && !absolute.join("oci-layout").is_file() => {
                let why = "is no OCI layout, and is not replaced by one; name another directory";
                return Err(Failure::new(format!("{shown} {why}")));
            }
            Ok(_) => true,
        };
        Ok(Self { path: absolute, beside, is_tar, replaces })
    }

    fn write(&self, from: impl Read) -> Result<String, AnyError> {
        let digest = if self.is_tar { self.write_tar(from)? } else { self.write_dir(from)? };
        Ok(digest)
    }

    fn write_tar(&self, from: impl Read) -> Result<String, AnyError> {
        let mut file = tempfile::NamedTempFile::new_in(&self.beside)?;
        let mut copied = Copied { from, to: file.as_file_mut() };
        let digest = receive_layout(&mut copied, None)?;
        // The archive's end.
        io::copy(&mut copied, &mut io::sink())?;
        file.as_file().set_permissions(Permissions::from_mode(0o644))?;
        match self.replaces {
            true => file.persist(&self.path)?,
            false => file.persist_noclobber(&self.path)?,
        };
        Ok(digest.to_string())
    }

    fn write_dir(&self, mut from: impl Read) -> Result<String, AnyError> {
        let new = tempfile::Builder::new().prefix(".inn-export-").tempdir_in(&self.beside)?;
        let digest = receive_layout(&mut from, Some(new.path()))?;
        fs::set_permissions(new.path(), Permissions::from_mode(0o755))?;
        if self.replaces {
            let old = tempfile::Builder::new().prefix(".inn-export-").tempdir_in(&self.beside)?;
            // A directory may only take the place of an empty one.
            fs::rename(&self.path, old.path())?;
            if let Err(error) = fs::rename(new.path(), &self.path) {
                fs::rename(old.path(), &self.path)?;
                return Err(error.into());
            }
        } else {
            fs::rename(new.path(), &self.path)?;
        }
        // It has its name now: what is left under the old one is nothing.
        let _ = new.keep();
        Ok(digest.to_string())
    }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// Writes down what is read through it.
struct Copied<'a, R> {
    from: R,
    to: &'a mut File,
}

impl<R: Read> Read for Copied<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(into)?;
        self.to.write_all(&into[..n])?;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_replaced_unasked_and_only_a_layout_if_asked() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(!Place::new(&at("new"), false).unwrap().replaces);
        fs::create_dir(at("empty")).unwrap();
        assert!(Place::new(&at("empty"), false).is_ok());
        fs::create_dir_all(at("home/documents")).unwrap();
        for force in [false, true] {
            let failure = Place::new(&at("home"), force).err().unwrap();
            assert!(failure.sentence().contains("home"), "{failure:?}");
        }
        fs::create_dir(at("layout")).unwrap();
        fs::write(at("layout/oci-layout"), "{}").unwrap();
        assert!(Place::new(&at("layout"), false).err().unwrap().sentence().contains("--force"));
        assert!(Place::new(&at("layout"), true).unwrap().replaces);
        fs::write(at("old.tar"), "x").unwrap();
        assert!(Place::new(&at("old.tar"), false).err().unwrap().sentence().contains("--force"));
        assert!(Place::new(&at("old.tar"), true).unwrap().replaces);
        assert!(Place::new(&at("old.tar/x"), true).is_err() || !at("old.tar/x").exists());
    }
}
