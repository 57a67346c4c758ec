use inn_domain::network::NetworkWay;

/// What the configuration says of how VMs get to the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ModeChoice {
    /// Bridges where the agent may make them, else the VMM's own network.
    #[default]
    Auto,
    Bridge,
    User,
    None,
}

/// Which of others' firewalls is told to let VMs' packets through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForeignChoice {
    /// Others' chains are looked at, and never changed.
    #[default]
    None,
    /// Docker's own chain for that.
    DockerUser,
    /// firewalld's zone for what is trusted.
    Firewalld,
}

/// How they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mode {
    pub(crate) way: NetworkWay,
    /// Why there are no bridges, where there are none.
    pub(crate) why: String,
}

impl Mode {
    /// `lacking`: what of making bridges and rules cannot be had here.
    pub(super) fn of(choice: ModeChoice, lacking: Option<String>) -> Self {
        let configured = || "network.mode says so".to_owned();
        match (choice, lacking) {
            (ModeChoice::Auto | ModeChoice::Bridge, None) => {
                Self { way: NetworkWay::Bridge, why: String::new() }
            }
            (ModeChoice::Auto | ModeChoice::Bridge, Some(why)) => {
                Self { way: NetworkWay::User, why }
            }
            (ModeChoice::User, _) => Self { way: NetworkWay::User, why: configured() },
            (ModeChoice::None, _) => Self { way: NetworkWay::Off, why: configured() },
        }
    }

    pub(crate) fn is_bridge(&self) -> bool {
        self.way == NetworkWay::Bridge
    }
}

/// capabilities(7), linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;

/// Why this process may not change the network that it is in.
pub(super) fn no_net_admin() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    (bits & (1 << CAP_NET_ADMIN) == 0).then(|| "the agent has not CAP_NET_ADMIN".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_bridges_there_is_the_vmms_own_network_and_the_reason() {
        let lacking = || Some("no nf_tables".to_owned());
        for (choice, lacking, way, why) in [
            (ModeChoice::Auto, None, NetworkWay::Bridge, ""),
            (ModeChoice::Auto, lacking(), NetworkWay::User, "no nf_tables"),
            (ModeChoice::Bridge, None, NetworkWay::Bridge, ""),
            (ModeChoice::Bridge, lacking(), NetworkWay::User, "no nf_tables"),
            (ModeChoice::User, None, NetworkWay::User, "network.mode says so"),
            (ModeChoice::None, None, NetworkWay::Off, "network.mode says so"),
        ] {
            assert_eq!(Mode::of(choice, lacking), Mode { way, why: why.to_owned() });
        }
    }
}
