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

/// The one VM that a verb is for: its name or id, positional or by `--vm`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct OneVm {
    /// A VM's name or id
    #[arg(
        id = "one",
        value_name = "VM",
        required_unless_present = "flagged_one",
        conflicts_with = "flagged_one"
    )]
    positional: Option<String>,
    /// The same as a flag
    #[arg(id = "flagged_one", long = "vm", value_name = "VM")]
    flagged: Option<String>,
}

impl OneVm {
    /// One of the two is there, by the grammar.
    pub(crate) fn name(&self) -> &str {
        self.positional.as_deref().or(self.flagged.as_deref()).unwrap_or_default()
    }
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
