use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use inn_units::{Bytes, Digest, ImageName, parse_duration};

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
    /// Remove what is unused, and say why
    Gc(GcArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn image gc --dry-run
  inn image gc
  inn image gc --max-age 7d
  inn image gc --limit 0           # all that nobody uses

Without a limit here, those of the configuration hold: images.cache_limit and
images.max_age. What VMs run from, what is being imported and what was used
within the last minute always stays.")]
pub(crate) struct GcArgs {
    /// Only say what would be done, and why
    #[arg(long)]
    pub dry_run: bool,
    /// How much may be left
    #[arg(long, value_name = "SIZE")]
    pub limit: Option<Bytes>,
    /// Remove what was unused for longer
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub max_age: Option<Duration>,
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
