use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  inn doctor                    what is not as it should be, and what mends it
  inn doctor --all              what is, too
  inn doctor --fix              do what is safe of it, and say what that was
  inn doctor -o json | jq '.findings[] | select(.state != \"ok\")'

The agent is asked where one runs; where none does, this command looks by
itself, as the user that it is run by, and starts none.
It ends with 0 where nothing that VMs need is degraded or missing, and with 1
otherwise. Packages are never installed: the command that would is shown.")]
pub(crate) struct DoctorArgs {
    /// Show what is as it should be, too
    #[arg(long)]
    pub all: bool,
    /// Do what is safe of what is to be done
    #[arg(long)]
    pub fix: bool,
}
