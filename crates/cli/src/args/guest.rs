use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use inn_units::Bytes;

use super::{OneVm, value};

#[derive(Debug, Subcommand)]
pub(crate) enum GuestCommand {
    /// Set a user's password, read from stdin or asked for
    #[command(after_help = "Examples:
  inn vm guest password web                     asks twice, without echo
  echo \"$SECRET\" | inn vm guest password web --user admin
  openssl passwd -6 | inn vm guest password web --hash

The password is never an argument, which others on this host could see.")]
    Password {
        #[command(flatten)]
        vm: OneVm,
        /// Whose password
        #[arg(short, long, default_value = "root")]
        user: String,
        /// What is given is a hash as crypt(5) writes it
        #[arg(long)]
        hash: bool,
    },
    /// Set the guest's hostname
    #[command(after_help = "Examples:\n  inn vm guest hostname web web-1")]
    Hostname {
        /// A VM's name or id
        #[arg(value_name = "VM")]
        vm: String,
        #[arg(value_name = "HOSTNAME")]
        hostname: String,
    },
    /// Set the guest's clock to the node's
    #[command(after_help = "Examples:\n  inn vm guest clock web")]
    Clock {
        #[command(flatten)]
        vm: OneVm,
    },
    /// Configure a network interface, taken back if the guest is lost by it
    Network(Box<NetworkArgs>),
    /// Freeze the guest's file systems, for a while at most
    #[command(after_help = "Examples:
  inn vm guest freeze web && cp disk.img copy.img; inn vm guest thaw web
  inn vm guest freeze web /srv --timeout 10s

The guest thaws by itself when the time is over, whatever happens here.")]
    Freeze {
        /// A VM's name or id
        #[arg(value_name = "VM")]
        vm: String,
        /// Mount points; all that can be frozen where none is given
        #[arg(value_name = "MOUNT")]
        mounts: Vec<String>,
        /// When the guest thaws by itself, 10m at most
        #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = value::whole_seconds)]
        timeout: u32,
    },
    /// Thaw what was frozen
    #[command(after_help = "Examples:\n  inn vm guest thaw web")]
    Thaw {
        #[command(flatten)]
        vm: OneVm,
    },
    /// List or change the keys that a user may log in with by ssh
    SshKeys(SshKeysArgs),
    /// Make a disk of the VM and the file system on it larger
    #[command(after_help = "Examples:
  inn vm guest grow web --disk 10GiB
  inn vm guest grow web                         the file system alone, to its disk's end
  inn vm guest grow web --target /srv")]
    Grow {
        #[command(flatten)]
        vm: OneVm,
        /// The disk's new size; its own where not given
        #[arg(long, value_name = "SIZE")]
        disk: Option<Bytes>,
        /// The mount point of the file system
        #[arg(long, value_name = "MOUNT", default_value = "/", value_parser = value::absolute)]
        target: String,
    },
    /// Mount a disk of the VM
    #[command(after_help = "Examples:
  inn vm guest mount web data /srv
  inn vm guest mount web data /srv --format --lasting
  inn vm guest mount web data /srv --read-only --type xfs")]
    Mount {
        /// A VM's name or id
        #[arg(value_name = "VM")]
        vm: String,
        /// The disk, by its serial
        #[arg(value_name = "SERIAL")]
        serial: String,
        /// Where to, a path in the guest
        #[arg(value_name = "MOUNT", value_parser = value::absolute)]
        target: String,
        /// So that nothing on it can be changed
        #[arg(long)]
        read_only: bool,
        /// The file system; found out where not given
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<String>,
        /// After the next start too, by the guest's fstab
        #[arg(long)]
        lasting: bool,
        /// Make an ext4 on it if it holds nothing
        #[arg(long)]
        format: bool,
    },
    /// Unmount what is mounted at a path
    #[command(after_help = "Examples:\n  inn vm guest unmount web /srv")]
    Unmount {
        /// A VM's name or id
        #[arg(value_name = "VM")]
        vm: String,
        #[arg(value_name = "MOUNT", value_parser = value::absolute)]
        target: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm guest network web --interface eth0 --dhcp4
  inn vm guest network web --interface 02:00:00:aa:bb:cc --address 10.0.0.5/24 --gateway 10.0.0.1 --dns 10.0.0.1
  inn vm guest network web --file ./network.json

FILE is the body of the API's POST guest/network, for more than one interface.
The guest takes the change back, whole, unless the node hears of it again within
--confirm.")]
pub(crate) struct NetworkArgs {
    /// A VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    /// The interface, by its name in the guest or its MAC address
    #[arg(long, value_name = "NAME|MAC", required_unless_present = "file")]
    pub interface: Option<String>,
    /// An address with the length of its prefix; repeats
    #[arg(long, value_name = "CIDR", value_parser = value::cidr, requires = "interface")]
    pub address: Vec<String>,
    /// Where packets to anywhere else go
    #[arg(long, value_name = "IP", requires = "interface")]
    pub gateway: Vec<IpAddr>,
    /// A name server; repeats
    #[arg(long, value_name = "IP", requires = "interface")]
    pub dns: Vec<IpAddr>,
    /// A domain to look names up in; repeats
    #[arg(long, value_name = "DOMAIN", requires = "interface")]
    pub search: Vec<String>,
    /// Get an IPv4 address by DHCP
    #[arg(long, requires = "interface")]
    pub dhcp4: bool,
    /// Get an IPv6 address by DHCP
    #[arg(long, requires = "interface")]
    pub dhcp6: bool,
    /// Largest packet of the interface
    #[arg(long, value_name = "BYTES", requires = "interface")]
    pub mtu: Option<u32>,
    /// How long the guest waits for the node to be heard of
    #[arg(long, value_name = "DURATION", value_parser = value::whole_seconds)]
    pub confirm: Option<u32>,
    /// All of it as JSON; - for stdin
    #[arg(long, value_name = "FILE", conflicts_with_all = ["interface", "address", "gateway", "dns", "search", "dhcp4", "dhcp6", "mtu"])]
    pub file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn vm guest ssh-keys web --list
  inn vm guest ssh-keys web --user admin --add ~/.ssh/id_ed25519.pub
  curl -s https://example.org/keys | inn vm guest ssh-keys web --replace -")]
pub(crate) struct SshKeysArgs {
    #[command(flatten)]
    pub vm: OneVm,
    /// Whose keys
    #[arg(short, long, default_value = "root")]
    pub user: String,
    #[command(flatten)]
    pub change: SshKeysChange,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct SshKeysChange {
    /// Add the keys in this file, one a line; - for stdin
    #[arg(long, value_name = "FILE")]
    pub add: Option<PathBuf>,
    /// Put the keys in this file in place of all that are there; - for stdin
    #[arg(long, value_name = "FILE")]
    pub replace: Option<PathBuf>,
    /// Print the keys that are there
    #[arg(long)]
    pub list: bool,
}

impl SshKeysArgs {
    /// None where they are only listed; whether the file's keys replace others.
    pub(crate) fn file(&self) -> Option<(&PathBuf, bool)> {
        let SshKeysChange { add, replace, .. } = &self.change;
        add.as_ref().map(|file| (file, false)).or(replace.as_ref().map(|file| (file, true)))
    }
}
