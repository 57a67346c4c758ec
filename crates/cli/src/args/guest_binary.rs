use std::path::PathBuf;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum GuestBinaryCommand {
    /// Put the guest agent and its service into a root file system to be
    #[command(after_help = "Examples:
  inn guest export ./rootfs
  mmdebstrap --include=systemd-sysv,linux-image-amd64 \\
    --customize-hook='inn guest export \"$1\"' bookworm rootfs.tar

Writes /usr/local/sbin/inn-guest and its systemd unit, enabled, below DIR. A VM
that boots a disk with it answers exec, cp and all else as a microVM does.")]
    Export {
        /// The root directory, which is there already
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}
