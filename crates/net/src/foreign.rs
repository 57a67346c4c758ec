//! Others' firewalls beside ours: which of their chains would drop what ours
//! let through, whose they are, and what their owner offers for it. Pure; what
//! there is comes from [`crate::nft::foreign`].

use std::fmt;

use inn_domain::network::Declared;

use crate::nft::{ForeignChain, HookPoint};

/// A chain that is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    pub chain: ForeignChain,
    pub owner: Owner,
    /// Programs to call, each with its arguments, that have its owner let our
    /// bridges' packets through; none, where there is no known way.
    pub opt_in: Vec<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Docker,
    Firewalld,
    Ufw,
    /// Of iptables-nft, by whoever called it.
    Iptables,
    Unknown,
}

impl Owner {
    fn of(chain: &ForeignChain) -> Self {
        let has = |prefix: &str| chain.beside.iter().any(|name| name.starts_with(prefix));
        if has("DOCKER-USER") {
            Self::Docker
        } else if chain.table == "firewalld" {
            Self::Firewalld
        } else if has("ufw") {
            Self::Ufw
        } else if chain.table == "filter" && matches!(&*chain.chain, "FORWARD" | "INPUT") {
            Self::Iptables
        } else {
            Self::Unknown
        }
    }
}

/// None, if nothing is declared that could be dropped.
pub fn blockers(foreign: &[ForeignChain], declared: &Declared) -> Vec<Blocker> {
    if declared.networks.is_empty() {
        return Vec::new();
    }
    let in_the_way = foreign.iter().filter(|chain| !chain.lets_ours_through);
    in_the_way
        .map(|chain| {
            let owner = Owner::of(chain);
            Blocker { chain: chain.clone(), owner, opt_in: opt_in(chain, owner, declared) }
        })
        .collect()
}

fn opt_in(chain: &ForeignChain, owner: Owner, declared: &Declared) -> Vec<Vec<String>> {
    let argv = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<String>>();
    let bridges = declared.networks.iter().map(inn_domain::network::DeclaredNetwork::bridge);
    let iptables = if chain.family == "ip6" { "ip6tables" } else { "iptables" };
    match (owner, chain.hook) {
        (Owner::Docker | Owner::Iptables, HookPoint::Input) => {
            vec![argv(&format!("{iptables} -I INPUT -i inn-b+ -j ACCEPT"))]
        }
        (Owner::Docker, _) => vec![
            argv(&format!("{iptables} -I DOCKER-USER -i inn-b+ -j ACCEPT")),
            argv(&format!("{iptables} -I DOCKER-USER -o inn-b+ -j ACCEPT")),
        ],
        (Owner::Iptables, _) => vec![
            argv(&format!("{iptables} -I FORWARD -i inn-b+ -j ACCEPT")),
            argv(&format!("{iptables} -I FORWARD -o inn-b+ -j ACCEPT")),
        ],
        (Owner::Firewalld, _) => {
            let zone = "firewall-cmd --permanent --zone=trusted --add-interface=";
            let reload = argv("firewall-cmd --reload");
            bridges.map(|bridge| argv(&format!("{zone}{bridge}"))).chain([reload]).collect()
        }
        (Owner::Ufw, HookPoint::Input) => {
            bridges.map(|bridge| argv(&format!("ufw allow in on {bridge}"))).collect()
        }
        (Owner::Ufw, _) => bridges
            .flat_map(|bridge| {
                ["in", "out"].map(|way| argv(&format!("ufw route allow {way} on {bridge}")))
            })
            .collect(),
        (Owner::Unknown, _) => Vec::new(),
    }
}

impl Blocker {
    /// What it drops, and where that is written.
    pub fn found(&self) -> String {
        let ForeignChain { family, table, chain, hook, by_policy, .. } = &self.chain;
        let whose = match self.owner {
            Owner::Docker => "Docker's ",
            Owner::Firewalld => "firewalld's ",
            Owner::Ufw => "ufw's ",
            Owner::Iptables | Owner::Unknown => "the ",
        };
        let what = match hook {
            HookPoint::Input => "what VMs ask of the host (DHCP, DNS)",
            _ => "what goes to VMs and from them",
        };
        let by = if *by_policy { "by its policy" } else { "by a rule without a condition" };
        format!("{whose}chain {chain} of table {family} {table} drops {what}, {by}")
    }

    /// For a shell, one after another; none, where there is no known way.
    pub fn calls(&self) -> Vec<String> {
        self.opt_in.iter().map(|argv| argv.join(" ")).collect()
    }

    /// What does the same without calls, or in their place.
    pub fn otherwise(&self) -> Option<String> {
        let hook = self.chain.hook;
        if self.opt_in.is_empty() {
            let side = if hook == HookPoint::Input { "" } else { ", and oifname \"inn-b*\"" };
            return Some(format!("add a rule to it that accepts iifname \"inn-b*\"{side}"));
        }
        let agent_does = match (self.owner, hook) {
            (Owner::Docker, HookPoint::Forward) => "docker-user",
            (Owner::Firewalld, _) => "firewalld",
            _ => return None,
        };
        Some(format!("network.foreign = \"{agent_does}\" has the agent see to it"))
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.found())?;
        let calls = self.calls();
        if !calls.is_empty() {
            write!(f, "`{}` lets it through", calls.join("; "))?;
        }
        match self.otherwise() {
            Some(otherwise) if calls.is_empty() => f.write_str(&otherwise),
            Some(otherwise) => write!(f, ", and {otherwise}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use inn_domain::network::{Instance, NetworkKind};

    use super::*;
    use crate::namespace::Namespace;
    use crate::nft::{self, Kernel};
    use crate::table::{tables, tests as sample};

    fn declared() -> Declared {
        Declared { networks: vec![sample::network(1, NetworkKind::Nat)], ..Declared::default() }
    }

    fn seen(namespace: &Namespace) -> Vec<Blocker> {
        blockers(&namespace.run(|| nft::foreign(&Instance::default()).unwrap()), &declared())
    }

    fn iptables(namespace: &Namespace, arguments: &str) -> bool {
        let argv: Vec<&str> = arguments.split_whitespace().collect();
        match namespace.try_program(&argv, "") {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{arguments}: {said}");
                true
            }
            Err(error) => {
                println!("SKIPPED what iptables makes: {error}");
                false
            }
        }
    }

    #[test]
    fn dockers_forward_chain_is_named_with_its_way_out() {
        let name = "dockers_forward_chain_is_named_with_its_way_out";
        let Some(namespace) = Namespace::new(name) else { return };
        let mut kernel = namespace.run(|| Kernel::open(Instance::default()).unwrap());
        kernel.reconcile(&tables(&declared())).unwrap();
        assert_eq!(seen(&namespace), []);
        // As Docker makes them.
        if !iptables(&namespace, "iptables-nft -N DOCKER-USER") {
            return;
        }
        iptables(&namespace, "iptables-nft -A FORWARD -j DOCKER-USER");
        iptables(&namespace, "iptables-nft -A DOCKER-USER -j RETURN");
        iptables(&namespace, "iptables-nft -P FORWARD DROP");
        let found = seen(&namespace);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            found[0].to_string(),
            "Docker's chain FORWARD of table ip filter drops what goes to VMs and from them, by \
             its policy: `iptables -I DOCKER-USER -i inn-b+ -j ACCEPT; iptables -I DOCKER-USER -o \
             inn-b+ -j ACCEPT` lets it through, and network.foreign = \"docker-user\" has the \
             agent see to it"
        );
        for argv in &found[0].opt_in {
            iptables(&namespace, &argv.join(" ").replacen("iptables", "iptables-nft", 1));
        }
        assert_eq!(seen(&namespace), []);
        // Neither has changed what is the other's.
        kernel.forget();
        assert!(kernel.reconcile(&tables(&declared())).unwrap().is_empty());
        let theirs = namespace.program(&["iptables-nft", "-S"], "");
        assert!(theirs.contains("-P FORWARD DROP") && theirs.contains("inn-b+"), "{theirs}");
    }

    #[test]
    fn rules_without_a_condition_are_found_and_conditions_are_not() {
        let name = "rules_without_a_condition_are_found_and_conditions_are_not";
        let Some(namespace) = Namespace::new(name) else { return };
        // As firewalld has it, and some that are not in the way.
        namespace.nft(
            "table inet firewalld {\n\
             chain filter_FORWARD { type filter hook forward priority 10; policy accept;\n\
             ct state established accept\n\
             reject with icmpx type admin-prohibited\n\
             }\n\
             }\n\
             table inet fine {\n\
             chain c { type filter hook forward priority 0; policy accept;\n\
             tcp dport 25 drop\n\
             ip saddr 192.0.2.9 drop\n\
             }\n\
             chain i { type filter hook output priority 0; policy drop; }\n\
             }\n\
             table ip strict { chain in { type filter hook input priority 0; policy drop; }; }",
        );
        let found = seen(&namespace);
        let said: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 2, "{said:?}");
        assert_eq!(
            said[0],
            "firewalld's chain filter_FORWARD of table inet firewalld drops what goes to VMs and \
             from them, by a rule without a condition: `firewall-cmd --permanent --zone=trusted \
             --add-interface=inn-ba000000001; firewall-cmd --reload` lets it through, and \
             network.foreign = \"firewalld\" has the agent see to it"
        );
        // A bridge that its owner has put into a zone.
        namespace.nft(
            "table inet firewalld {\n\
             chain filter_FWD_trusted { accept; }\n\
             chain filter_FORWARD_ZONES { iifname \"inn-ba000000001\" goto filter_FWD_trusted; }\n\
             }",
        );
        assert_eq!(seen(&namespace).len(), 1);
        assert_eq!(
            said[1],
            "the chain in of table ip strict drops what VMs ask of the host (DHCP, DNS), by its \
             policy: add a rule to it that accepts iifname \"inn-b*\""
        );
    }
}
