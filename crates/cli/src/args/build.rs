use std::path::PathBuf;

use clap::Args;
use inn_units::ImageName;

use super::value;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn image build ./rootfs --name base -- /bin/sh
  inn image build base.tar.zst --name base:12 -e LANG=C.UTF-8 --workdir /srv
  mmdebstrap --variant=minbase bookworm base.tar && inn image build base.tar --name base

The same directory or tar is the same image each time. Packed by root, files
keep their owners; packed by anybody else, what is theirs becomes root's.")]
pub(crate) struct BuildArgs {
    /// A directory, or a tar (plain, gzip or zstd), of a root file system
    #[arg(value_name = "DIR|TAR")]
    pub source: PathBuf,
    /// What the image is called
    #[arg(long)]
    pub name: ImageName,
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
