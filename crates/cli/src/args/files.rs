use clap::{Args, Subcommand};

use super::{GuestPath, Place, parse_place, value};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm cp ./main.py web:/root/main.py
  inn vm cp ./site web:/srv/                  makes /srv/site
  inn vm cp web:/var/log ./logs
  inn vm cp web:/etc/hostname -               to stdout
  tar c . | gzip | inn vm cp - web:/tmp/all.tar.gz
  inn vm cp -p ./disk.img web:/var/tmp/disk.img

A destination that ends in / is a directory to copy into; any other is the
copy's own path. Directories are copied whole. A file's holes stay holes, its
checksum is compared at both ends, and when the agent restarts in the middle the
copy goes on where it was; only what comes from stdin cannot.")]
pub(crate) struct CopyArgs {
    /// Keep the file's time of change; its permissions are kept anyway
    #[arg(short, long)]
    pub preserve: bool,
    /// A path here, VM:/PATH, or - for stdin
    #[arg(value_name = "SRC", value_parser = parse_place)]
    pub source: Place,
    /// A path here, VM:/PATH, or - for stdout
    #[arg(value_name = "DST", value_parser = parse_place)]
    pub destination: Place,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FilesCommand {
    /// List a directory
    #[command(after_help = "Examples:
  inn vm files ls web:/etc
  inn vm files ls web:/etc -o json")]
    Ls {
        #[arg(value_name = "VM:PATH", value_parser = value::guest_path)]
        place: GuestPath,
    },
    /// Show all that is known of a file
    #[command(after_help = "Examples:
  inn vm files stat web:/etc/hostname
  inn vm files stat -L web:/etc/localtime     of what the link leads to")]
    Stat {
        /// Of what a symbolic link leads to, not of the link
        #[arg(short = 'L', long)]
        follow: bool,
        #[arg(value_name = "VM:PATH", value_parser = value::guest_path)]
        place: GuestPath,
    },
    /// Make a directory
    #[command(after_help = "Examples:
  inn vm files mkdir web:/srv/site
  inn vm files mkdir -p --mode 0750 web:/srv/site/a/b")]
    Mkdir {
        /// Make those above it too, and be content with one that is there
        #[arg(short, long)]
        parents: bool,
        /// Its permissions, in octal
        #[arg(short, long, value_name = "MODE", value_parser = value::mode)]
        mode: Option<String>,
        #[arg(value_name = "VM:PATH", value_parser = value::guest_path)]
        place: GuestPath,
    },
    /// Remove a file, or with -r a directory
    #[command(after_help = "Examples:
  inn vm files rm web:/tmp/all.tar.gz
  inn vm files rm -r web:/srv/site")]
    Rm {
        /// Directories too, with all that is in them
        #[arg(short, long)]
        recursive: bool,
        #[arg(value_name = "VM:PATH", value_parser = value::guest_path)]
        place: GuestPath,
    },
    /// Rename or move a file within a VM
    #[command(after_help = "Examples:
  inn vm files mv web:/srv/site /srv/site.old
  inn vm files mv --replace web:/etc/app.conf.new /etc/app.conf")]
    Mv {
        /// Take the place of a file that is there
        #[arg(short = 'f', long)]
        replace: bool,
        #[arg(value_name = "VM:PATH", value_parser = value::guest_path)]
        from: GuestPath,
        /// The new path in the same VM
        #[arg(value_name = "PATH", value_parser = value::path_in_same_vm)]
        to: SameVmPath,
    },
    /// Make a symbolic link
    #[command(after_help = "Examples:
  inn vm files ln /srv/site-2 web:/srv/current
  inn vm files ln --replace ../site-3 web:/srv/current")]
    Ln {
        /// Take the place of a file or link that is there
        #[arg(short = 'f', long)]
        replace: bool,
        /// What the link leads to, as it is to stand in it
        #[arg(value_name = "TARGET")]
        target: String,
        #[arg(value_name = "VM:PATH", value_parser = value::guest_path)]
        place: GuestPath,
    },
    /// Change a file's permissions and owner
    #[command(after_help = "Examples:
  inn vm files chmod 0600 web:/etc/app.key
  inn vm files chmod 0640 --uid 0 --gid 33 web:/etc/app.conf")]
    Chmod {
        /// Its permissions, in octal
        #[arg(value_name = "MODE", value_parser = value::mode)]
        mode: String,
        /// Its owner's number
        #[arg(long, value_name = "UID")]
        uid: Option<u32>,
        /// Its group's number
        #[arg(long, value_name = "GID")]
        gid: Option<u32>,
        #[arg(value_name = "VM:PATH", value_parser = value::guest_path)]
        place: GuestPath,
    },
    /// Print a line for each change of a file or below a directory
    #[command(after_help = "Examples:
  inn vm files watch web:/srv/site
  inn vm files watch -r -o json web:/etc      one JSON object a line

Goes on until Ctrl-C. Where more changes than can be told, it says that some
were lost.")]
    Watch {
        /// Directories below it too
        #[arg(short, long)]
        recursive: bool,
        #[arg(value_name = "VM:PATH", value_parser = value::guest_path)]
        place: GuestPath,
    },
}

/// A path in a VM that was named before, which may be named again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SameVmPath {
    pub vm: Option<String>,
    pub path: String,
}
