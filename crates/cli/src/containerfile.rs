//! `inn image build` of a Containerfile: buildah builds, and we import.
//!
//! ```text
//!   buildah build ─▶ an image of buildah's ─▶ buildah push ─▶ OCI layout ─▶ import
//! ```
//! All of it is done by whoever typed it, with their registries, credentials
//! and cache. What buildah has built stays in its storage, for the next time.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use inn_host::process::{Program, RunError, find_program, run_watched};

use crate::args::{BuildArgs, ImportArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::image::import;
use crate::transfer::blocking;

/// What buildah looks for in a directory, in that order.
const NAMES: [&str; 2] = ["Containerfile", "Dockerfile"];

/// The layout's only image.
const TAG: &str = "built";

/// The file that says how the image is built, if it is one of those.
pub(crate) fn find(args: &BuildArgs) -> Result<Option<PathBuf>, Failure> {
    let found = match &args.file {
        Some(file) => Some(file.clone()),
        None => NAMES.iter().map(|name| args.source.join(name)).find(|path| path.is_file()),
    };
    let Some(file) = found else {
        if args.no_cache || !args.build_arg.is_empty() {
            let why = "has neither a Containerfile nor a Dockerfile; name one with --file";
            return Err(Failure::usage(format!("{} {why}", args.source.display())));
        }
        return Ok(None);
    };
    let says = !args.command.is_empty() || !args.env.is_empty();
    if says || args.workdir.is_some() || args.user.is_some() {
        let why = "says itself what the image runs and how; leave -e, --workdir, --user and the \
                   command out";
        return Err(Failure::usage(format!("{} {why}", file.display())));
    }
    if !args.source.is_dir() {
        let why = "is no directory; a Containerfile is built in one";
        return Err(Failure::usage(format!("{} {why}", args.source.display())));
    }
    Ok(Some(file))
}

pub(crate) async fn build(context: &Context, args: &BuildArgs, file: &Path) -> Result<u8, Failure> {
    let failed = |e: std::io::Error| Failure::because("cannot make a directory for the image", &e);
    let place = tempfile::Builder::new().prefix("inn-build-").tempdir().map_err(failed)?;
    let (id, layout) = (place.path().join("id"), place.path().join("layout"));
    let mut words: Vec<OsString> =
        ["build", "--format", "oci", "--layers"].map(OsString::from).into();
    if std::env::var_os("BUILDAH_ISOLATION").is_none()
        && ["crun", "runc"].iter().all(|runtime| find_program(runtime).is_none())
    {
        words.extend(["--isolation", "chroot"].map(OsString::from));
    }
    if args.no_cache {
        words.push("--no-cache".into());
    }
    for (name, value) in &args.build_arg {
        words.extend(["--build-arg".into(), format!("{name}={value}").into()]);
    }
    words.extend(["--iidfile".into(), id.clone().into_os_string()]);
    words.extend(["--file".into(), file.as_os_str().to_owned(), args.source.clone().into()]);
    let shown = file.display().to_string();
    let into = layout.clone();
    blocking(move || {
        run(words, &format!("builds no image of {shown}"))?;
        let id = std::fs::read_to_string(&id)
            .map_err(|e| Failure::because("buildah does not say what it has built", &e))?;
        let mut target = OsString::from("oci:");
        target.push(&into);
        target.push(format!(":{TAG}"));
        let id = id.trim().trim_start_matches("sha256:");
        run(vec!["push".into(), "--quiet".into(), id.into(), target], "gives no image out")
    })
    .await?;
    let name = args.name.clone();
    let args = ImportArgs { path: layout, name, reference: Some(TAG.into()), digest: None };
    import(context, &args).await
}

fn run(words: Vec<OsString>, otherwise: &str) -> Result<(), Failure> {
    match run_watched(Program::BUILDAH, words) {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => {
            let why = format!("buildah {otherwise}: its messages above say why");
            Err(Failure::new(why))
        }
        Err(RunError::Missing(missing)) => Err(Failure::new(format!(
            "a Containerfile is built by buildah: {missing}; or build it elsewhere, and use \
             `inn image import`"
        ))),
        Err(error) => Err(Failure::of(&error)),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        build: BuildArgs,
    }

    fn found(words: &[&str]) -> Result<Option<PathBuf>, Failure> {
        let words = ["x", "--name", "n"].into_iter().chain(words.iter().copied());
        find(&Line::parse_from(words).build)
    }

    #[test]
    fn a_directory_with_a_containerfile_is_built_by_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        assert_eq!(found(&[path]), Ok(None));
        assert!(found(&[path, "--no-cache"]).is_err());
        let file = dir.path().join("Dockerfile");
        std::fs::write(&file, "FROM scratch").unwrap();
        assert_eq!(found(&[path]), Ok(Some(file)));
        let better = dir.path().join("Containerfile");
        std::fs::write(&better, "FROM scratch").unwrap();
        assert_eq!(found(&[path]), Ok(Some(better)));
        assert_eq!(found(&[path, "-f", "other"]), Ok(Some("other".into())));
        let said = found(&[path, "--", "cmd"]).unwrap_err();
        assert!(said.sentence().contains("Containerfile says itself"), "{said:?}");
        assert!(found(&["Cargo.toml", "-f", "x"]).is_err());
    }
}
