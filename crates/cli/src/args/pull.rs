use clap::{Args, ValueEnum};
use inn_units::ImageName;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn image pull debian:12
  inn image pull registry.example:5000/team/tools:3 --name tools
  inn image pull debian@sha256:…                        one image and no other
  inn image pull 127.0.0.1:5000/base --plain-http

Credentials are those of `docker login`, `podman login` or `skopeo login`. What
came of a pull that was cut off is kept, and the next one goes on with it.")]
pub(crate) struct PullArgs {
    /// As docker writes it; docker.io where no registry is named
    #[arg(value_name = "REFERENCE")]
    pub reference: String,
    /// What the image is called from now on; the reference unless given
    #[arg(long)]
    pub name: Option<ImageName>,
    /// Ask this registry without TLS
    #[arg(long)]
    pub plain_http: bool,
}

/// Whether an image is pulled for a VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullWhen {
    /// Where there is no image of that name
    #[default]
    Missing,
    Never,
    /// Even where there is one; what is here already is not fetched again
    Always,
}
