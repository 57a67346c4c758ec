use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn image export base:12 --to ./layout && skopeo inspect oci:./layout:12
  inn image export base --to base.tar

What ends in .tar becomes a tar of an OCI layout, all else a directory of one.
The layers are those that the image came with; the same image is the same bytes.
An image that was described in docker's words is described in the image spec's,
and has another digest for it.")]
pub(crate) struct ExportArgs {
    /// Its name or id
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// The directory or tar that is made
    #[arg(long, value_name = "DIR|FILE.tar")]
    pub to: PathBuf,
    /// Replace the tar, or the layout, that is there
    #[arg(long)]
    pub force: bool,
}
