use std::path::PathBuf;

use clap::Args;
use inn_units::ImageName;

use super::value;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn image build ./rootfs --name base -- /bin/sh
  inn image build base.tar.zst --name base:12 -e LANG=C.UTF-8 --workdir /srv
  mmdebstrap --variant=minbase bookworm base.tar && inn image build base.tar --name base

  inn image build . --name app -f Containerfile --build-arg VERSION=3

A directory with a Containerfile or a Dockerfile in it is built by buildah, with
its own cache and configuration; RUN steps are isolated by chroot where there is
neither crun nor runc. What the image runs is said in the file then.
The same directory or tar is the same image each time. Packed by root, files
keep their owners; packed by anybody else, what is theirs becomes root's.")]
pub(crate) struct BuildArgs {
    /// A directory, or a tar (plain, gzip or zstd), of a root file system; or
    /// the directory of a Containerfile
    #[arg(value_name = "DIR|TAR")]
    pub source: PathBuf,
    /// What the image is called
    #[arg(long)]
    pub name: ImageName,
    /// A Containerfile to build by buildah; that of the directory unless given
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["env", "workdir", "user", "command"])]
    pub file: Option<PathBuf>,
    /// An argument of the Containerfile
    #[arg(long, value_name = "NAME=VALUE", value_parser = value::variable)]
    pub build_arg: Vec<(String, String)>,
    /// Have buildah do every step anew
    #[arg(long)]
    pub no_cache: bool,
    /// A variable for what runs in it; without =VALUE, its value here
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = value::variable)]
    pub env: Vec<(String, String)>,
    /// Where what runs in it begins
    #[arg(long, value_name = "PATH")]
    pub workdir: Option<String>,
    /// Whom it runs as
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// What it runs
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}
