use clap::Args;

/// Which VMs a verb is for: names or ids, positional or by `--vm`, or all.
#[derive(Debug, Clone, Default, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct VmSelection {
    /// Names or ids of VMs
    #[arg(value_name = "VM")]
    positional: Vec<String>,
    /// The same as a flag; repeats
    #[arg(long = "vm", value_name = "VM")]
    flagged: Vec<String>,
    /// Every VM that this can be done to
    #[arg(long, conflicts_with_all = ["positional", "flagged"])]
    all: bool,
}

/// A selection as its user meant it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VmTargets {
    All,
    /// In the order given, each once.
    Named(Vec<String>),
}

impl VmSelection {
    pub(crate) fn targets(&self) -> VmTargets {
        if self.all {
            return VmTargets::All;
        }
        let mut names: Vec<String> = Vec::new();
        for name in self.positional.iter().chain(&self.flagged) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        VmTargets::Named(names)
    }
}
