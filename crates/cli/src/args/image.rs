use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use inn_units::{Bytes, Digest, ImageName, parse_duration};

use super::{BuildArgs, ExportArgs, PullArgs};
use crate::language::Language;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Make an image of this host's bootable
    Import(ImportArgs),
    /// Bring an image here from a registry
    Pull(PullArgs),
    /// Make an image of a directory or a tar
    Build(BuildArgs),
    /// Write an image as an OCI layout
    Export(ExportArgs),
    /// List images and disk images
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  inn image list\n  inn image list -o json"
    )]
    List,
    /// Delete images that no VM uses, and disk images
    #[command(
        visible_alias = "rm",
        after_help = "Examples:\n  inn image delete base\n  inn image delete base:12 base:13\n  inn image delete debian-12.qcow2"
    )]
    Delete {
        /// Names of images; of disk images, the SHA-256, too
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
    },
    /// Remove what is unused, and say why
    Gc(GcArgs),
    /// Images of languages, made from the distribution's packages
    #[command(subcommand, arg_required_else_help = true)]
    Language(LanguageCommand),
    /// The kernels that VMs boot
    #[command(subcommand, arg_required_else_help = true)]
    Kernel(KernelCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum LanguageCommand {
    /// Make a language's image on this host, without any registry
    #[command(after_help = "Examples:
  inn image language build python
  inn image language build node --name node:debian
  inn vm create --language python

From the packages of this host's Debian or Ubuntu, by mmdebstrap and umoci. The
image is called as the agent's configuration has it for --language, by default
python, node, ruby and golang.")]
    Build {
        /// Which one
        #[arg(value_name = "LANGUAGE", value_enum)]
        language: Language,
        /// What the image is called, in place of the language's name
        #[arg(long)]
        name: Option<ImageName>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KernelCommand {
    /// List kernels, and which of them VMs boot
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  inn image kernel list\n  inn image kernel list -o json"
    )]
    List,
    /// Have VMs boot this kernel from their next start on
    #[command(after_help = "Examples:
  inn image kernel use 6.12.117-innkeeper
  inn image kernel use newest

A VM's own --kernel comes first, then kernel.path of the configuration, then
this. Without any of them VMs boot the newest of those that were fetched.")]
    Use {
        /// As `inn image kernel list` names it, or `newest`
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Get the distribution's own kernel, without installing it
    #[command(after_help = "Examples:
  inn image kernel fetch
  inn image kernel fetch --package linux-image-6.1.0-48-amd64

On Debian and Ubuntu, from the package sources that this host uses.")]
    Fetch {
        /// Another package than the newest for virtual machines
        #[arg(long, value_name = "NAME")]
        package: Option<String>,
    },
    /// Build a small kernel of our own from the distribution's kernel source
    Build(BuildKernelArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn image kernel build
  inn image kernel build --source linux-source-6.12.tar.xz --work /var/tmp/kernel

All that a VM needs is built in, and nothing else: it starts faster. It takes
some minutes and 3 GiB, and needs a compiler; what is missing is named.")]
pub(crate) struct BuildKernelArgs {
    /// A linux-source-*.tar.xz or its .deb that is here already
    #[arg(long, value_name = "FILE")]
    pub source: Option<PathBuf>,
    /// Where it is built, kept for the next time
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// Processors to use; all unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub jobs: Option<u32>,
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
