use std::path::PathBuf;

use clap::{Args, Subcommand};
use inn_units::{Digest, ImageName};

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Make an image of this host's bootable
    Import(ImportArgs),
    /// List images
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  inn image list\n  inn image list -o json"
    )]
    List,
    /// Delete images that no VM uses
    #[command(
        visible_alias = "rm",
        after_help = "Examples:\n  inn image delete base\n  inn image delete base:12 base:13"
    )]
    Delete {
        /// Names of images
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  docker save debian:12 -o debian.tar && inn image import debian.tar --name debian:12
  skopeo copy docker://debian:12 oci:./layout:12 && inn image import ./layout --name debian
  inn image import ./many.tar --name base --reference base:12

Takes an OCI layout directory, a tar of one, or what `docker save` writes.")]
pub(crate) struct ImportArgs {
    /// The directory or tar
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// What the image is called from now on
    #[arg(long)]
    pub name: ImageName,
    /// Which one, when there are several: its reference or digest
    #[arg(long, value_name = "REFERENCE")]
    pub reference: Option<String>,
    /// Refuse the image unless its manifest has this digest
    #[arg(long, value_name = "DIGEST")]
    pub digest: Option<Digest>,
}
