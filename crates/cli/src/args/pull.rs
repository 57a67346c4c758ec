use clap::{Args, ValueEnum};
use inn_units::ImageName;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn image pull debian:12
  inn image pull registry.example:5000/team/tools:3 --name tools
  inn image pull debian@sha256:…                        one image and no other
  inn image pull 127.0.0.1:5000/base --plain-http
  inn image pull https://cloud.example/debian-12.qcow2 --sha256 https://cloud.example/SHA512SUMS

A URL is that of a disk image for `vm create --disk-image`; its SHA-256 is printed.
Credentials are those of `docker login`, `podman login` or `skopeo login`. What
came of a pull that was cut off is kept, and the next one goes on with it.")]
pub(crate) struct PullArgs {
    /// As docker writes it, docker.io where no registry is named; or the URL
    /// of a disk image
    #[arg(value_name = "REFERENCE|URL")]
    pub reference: String,
    /// What the image is called from now on; the reference unless given
    #[arg(long)]
    pub name: Option<ImageName>,
    /// Ask this registry without TLS
    #[arg(long)]
    pub plain_http: bool,
    /// Of a disk image: refuse it unless its SHA-256 or SHA-512 is this, or the
    /// one in a list such as SHA256SUMS
    #[arg(long, value_name = "HEX|URL|FILE", value_parser = super::value::sum)]
    pub sha256: Option<String>,
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
