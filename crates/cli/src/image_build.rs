//! `inn image build`: a directory or a tar of this host's becomes an image.

use inn_image::{RunConfig, write_layout};

use crate::args::{BuildArgs, ImportArgs};
use crate::containerfile;
use crate::context::Context;
use crate::failure::Failure;
use crate::image::import;
use crate::progress::Spinner;

/// What programs are looked for in where the image says nothing.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Packs it with this user's rights, and hands the agent an OCI layout.
pub(crate) async fn build(context: &Context, args: &BuildArgs) -> Result<u8, Failure> {
    if let Some(file) = containerfile::find(args)? {
        return containerfile::build(context, args, &file).await;
    }
    let shown = args.source.display().to_string();
    let mut env: Vec<String> =
        args.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !args.env.iter().any(|(name, _)| name == "PATH") {
        env.insert(0, PATH.to_owned());
    }
    let run = RunConfig {
        cmd: args.command.clone(),
        env,
        working_dir: args.workdir.clone(),
        user: args.user.clone(),
        ..RunConfig::default()
    };
    let dir = tempfile::Builder::new()
        .prefix("inn-build-")
        .tempdir()
        .map_err(|e| Failure::because("cannot make a directory for the image", &e))?;
    let mut spinner = Spinner::start(context, format!("packing {shown}"));
    let (source, into) = (args.source.clone(), dir.path().to_owned());
    let packed = tokio::task::spawn_blocking(move || write_layout(&source, &run, &into)).await;
    spinner.clear();
    let digest = packed
        .map_err(|e| Failure::because(format!("cannot pack {shown}"), &e))?
        .map_err(|e| Failure::because(format!("cannot make an image of {shown}"), &e))?;
    let args = ImportArgs {
        path: dir.path().to_owned(),
        name: args.name.clone(),
        reference: None,
        digest: Some(digest),
    };
    import(context, &args).await
}
