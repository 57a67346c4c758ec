//! Rules of ours in a chain of others: DOCKER-USER, which Docker keeps for what
//! its host's owner wants to say before it (docs.docker.com, "Packet filtering
//! and firewalls"). Only where the configuration asks for it; each carries our
//! table's name and the bridge's, and by that is known again, kept and removed.

use std::collections::BTreeSet;

use inn_domain::network::Instance;
use inn_netlink::{CREATE, Message};
use inn_units::InterfaceName;
use rustix::io::Errno;

use super::decode;
use super::encode;
use super::kernel::{Kernel, KernelError};
use super::model::Rule;
use super::numbers::*;
use super::part::{Field, Part, Verdict};

const TABLE: &str = "filter";
const CHAIN: &str = "DOCKER-USER";

/// linux/netfilter.h: Docker's rules are those of iptables and ip6tables.
const FAMILIES: [(u8, &str); 2] = [(2, "ip"), (10, "ip6")];

impl Kernel {
    /// Has Docker's chain accept what comes from these bridges and goes to
    /// them, and nothing of ours besides; in words, what was changed. Nothing
    /// happens where there is no Docker.
    pub fn accept_in_docker(
        &mut self,
        bridges: &[InterfaceName],
    ) -> Result<Vec<String>, KernelError> {
        let mut done = Vec::new();
        let mut messages = Vec::new();
        for (family, name) in FAMILIES {
            let Some(there) = self.docker_rules(family)? else { continue };
            let wanted = rules(self.instance(), bridges);
            let ours = format!("{} ", self.instance().table());
            let mut seen = BTreeSet::new();
            for (handle, comment) in &there {
                let is_ours = Rule::label_of(comment).is_some_and(|label| label.starts_with(&ours));
                let is_wanted = wanted.iter().any(|rule| rule.comment() == *comment);
                // Whoever restores what he has saved may have made it twice.
                if is_ours && !(is_wanted && seen.insert(comment)) {
                    let mut payload = encode::fixed(family);
                    payload.put_text(RULE_TABLE, TABLE).put_text(RULE_CHAIN, CHAIN);
                    payload.put_be64(RULE_HANDLE, *handle);
                    messages.push(Message { kind: encode::kind(DELRULE), flags: 0, payload });
                    done.push(format!("delete rule {name} {TABLE} {CHAIN} \"{comment}\""));
                }
            }
            for rule in &wanted {
                if there.iter().any(|(_, comment)| *comment == rule.comment()) {
                    continue;
                }
                let mut payload = encode::fixed(family);
                payload.put_text(RULE_TABLE, TABLE).put_text(RULE_CHAIN, CHAIN);
                encode::put_rule(&mut payload, rule);
                // Before its end, which returns.
                messages.push(Message { kind: encode::kind(NEWRULE), flags: CREATE, payload });
                done.push(format!("insert rule {name} {TABLE} {CHAIN} {}", rule.text()));
            }
        }
        match self.change(&messages) {
            Ok(()) => Ok(done),
            // Docker has just gone: whoever asks next finds that.
            Err(source) if source.error.is(Errno::NOENT) => Ok(Vec::new()),
            Err(source) => {
                Err(KernelError::Refused { step: format!("change {TABLE} {CHAIN}"), source })
            }
        }
    }

    /// Of its rules, each with its comment, those that have one; none, if there
    /// is no such chain.
    fn docker_rules(&mut self, family: u8) -> Result<Option<Vec<(u64, String)>>, KernelError> {
        let mut ask = encode::fixed(family);
        ask.put_text(CHAIN_TABLE, TABLE);
        // A dump of chains takes no filter.
        let chains = self.dump("chains of Docker", GETCHAIN, NEWCHAIN, &ask)?;
        let is_it = |message: &Vec<u8>| {
            message.first() == Some(&family)
                && decode::name(message, CHAIN_TABLE).as_deref() == Some(TABLE)
                && decode::name(message, CHAIN_NAME).as_deref() == Some(CHAIN)
        };
        if !chains.iter().any(is_it) {
            return Ok(None);
        }
        let mut ask = encode::fixed(family);
        ask.put_text(RULE_TABLE, TABLE).put_text(RULE_CHAIN, CHAIN);
        let messages = self.dump("rules of Docker", GETRULE, NEWRULE, &ask)?;
        let rules = messages.iter().filter_map(|message| decode::rule(message));
        let in_it = rules.filter(|(chain, _)| chain == CHAIN);
        Ok(Some(in_it.filter_map(|(_, rule)| Some((rule.handle, rule.comment?))).collect()))
    }
}

fn rules(instance: &Instance, bridges: &[InterfaceName]) -> Vec<Rule> {
    let table = instance.table();
    let both = |bridge: &InterfaceName| {
        [("from", Field::IifName), ("to", Field::OifName)].map(|(way, field)| {
            let parts = vec![
                Part::interface(field, bridge.as_str()),
                Part::Counter,
                Part::Do(Verdict::Accept),
            ];
            Rule::new(format!("{table} {way} {bridge}"), parts)
        })
    };
    bridges.iter().flat_map(both).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::Namespace;

    /// As Docker 28 lays its filter table out: FORWARD drops what neither its
    /// user's chain nor its own accept (its docs, "Packet filtering and
    /// firewalls", and moby's libnetwork/drivers/bridge).
    const DOCKER: &[&str] = &[
        "-N DOCKER",
        "-N DOCKER-BRIDGE",
        "-N DOCKER-CT",
        "-N DOCKER-FORWARD",
        "-N DOCKER-USER",
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -j DOCKER-FORWARD",
        "-A DOCKER ! -i docker0 -o docker0 -j DROP",
        "-A DOCKER-BRIDGE -o docker0 -j DOCKER",
        "-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A DOCKER-FORWARD -j DOCKER-CT",
        "-A DOCKER-FORWARD -j DOCKER-BRIDGE",
        "-A DOCKER-FORWARD -i docker0 -j ACCEPT",
        "-P FORWARD DROP",
    ];

    fn iptables(namespace: &Namespace, arguments: &str) -> Option<String> {
        said("iptables-nft", namespace, arguments, "")
    }

    fn said(program: &str, namespace: &Namespace, arguments: &str, input: &str) -> Option<String> {
        let words = [program].into_iter().chain(arguments.split_whitespace());
        let output = namespace.try_program(&words.collect::<Vec<_>>(), input).ok()?;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments}: {error}");
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    #[test]
    fn dockers_chain_has_ours_as_long_as_there_is_a_bridge() {
        let name = "dockers_chain_has_ours_as_long_as_there_is_a_bridge";
        let Some(namespace) = Namespace::new(name) else { return };
        let (web, lab): (InterfaceName, InterfaceName) =
            ("inn-b0000000001".parse().unwrap(), "inn-b0000000002".parse().unwrap());
        let mut kernel = namespace.run(|| Kernel::open(Instance::default()).unwrap());
        let second = Instance(Some("0badcafe".to_owned()));
        let mut other = namespace.run(|| Kernel::open(second).unwrap());
        assert!(kernel.accept_in_docker(std::slice::from_ref(&web)).unwrap().is_empty());
        for arguments in DOCKER {
            if iptables(&namespace, arguments).is_none() {
                return println!("SKIPPED {name}: no iptables-nft");
            }
        }
        let theirs = iptables(&namespace, "-S").unwrap();
        let both = [web.clone(), lab.clone()];
        assert_eq!(kernel.accept_in_docker(&both).unwrap().len(), 4);
        assert_eq!(other.accept_in_docker(std::slice::from_ref(&lab)).unwrap().len(), 2);
        // Docker's program reads them as its own kind.
        let now = iptables(&namespace, "-S DOCKER-USER").unwrap();
        for way in ["-i", "-o"] {
            let rule = format!("-A DOCKER-USER {way} {web} -m comment --comment \"innkeeper ");
            assert!(now.contains(&rule), "{now}");
        }
        assert_eq!(now.matches(&format!("o {lab}")).count(), 4, "of both instances: {now}");
        assert!(kernel.accept_in_docker(&both).unwrap().is_empty(), "as they should be");

        // What its owner adds stays, and comes before or after ours as he says.
        iptables(&namespace, "-I DOCKER-USER -s 198.51.100.7 -j DROP");
        iptables(&namespace, "-A DOCKER-USER -j RETURN");
        let gone = kernel.accept_in_docker(std::slice::from_ref(&web)).unwrap();
        assert_eq!(gone.len(), 2, "{gone:?}");
        // Flushed, they come back.
        iptables(&namespace, "-F DOCKER-USER");
        assert_eq!(kernel.accept_in_docker(std::slice::from_ref(&web)).unwrap().len(), 2);
        assert_eq!(other.accept_in_docker(std::slice::from_ref(&lab)).unwrap().len(), 2);
        // With the last network all of ours go, and nothing else.
        kernel.accept_in_docker(&[]).unwrap();
        let now = iptables(&namespace, "-S DOCKER-USER").unwrap();
        assert!(!now.contains(web.as_str()) && now.contains(lab.as_str()), "{now}");
        other.accept_in_docker(&[]).unwrap();
        assert_eq!(iptables(&namespace, "-S").unwrap(), theirs);
    }
    /// iptables writes a comment another way than we do, and all that it
    /// restores is written by it.
    #[test]
    fn ours_are_known_again_after_others_have_rewritten_them() {
        let name = "ours_are_known_again_after_others_have_rewritten_them";
        let Some(namespace) = Namespace::new(name) else { return };
        let both: [InterfaceName; 2] =
            [1, 2].map(|at| format!("inn-b000000000{at}").parse().unwrap());
        let mut kernel = namespace.run(|| Kernel::open(Instance::default()).unwrap());
        for arguments in DOCKER {
            if iptables(&namespace, arguments).is_none() {
                return println!("SKIPPED {name}: no iptables-nft");
            }
        }
        let theirs = iptables(&namespace, "-S").unwrap();
        kernel.accept_in_docker(&both).unwrap();
        let ours = iptables(&namespace, "-S DOCKER-USER").unwrap();
        let mut as_they_are = |after: &str| {
            let done = kernel.accept_in_docker(&both).unwrap();
            assert!(done.is_empty(), "after {after}: {done:?}");
            assert_eq!(iptables(&namespace, "-S DOCKER-USER").unwrap(), ours, "after {after}");
        };
        let saved = said("iptables-nft-save", &namespace, "", "").unwrap();
        said("iptables-nft-restore", &namespace, "", &saved).unwrap();
        as_they_are("a restore");
        said("iptables-nft-restore", &namespace, "-w", &saved).unwrap();
        as_they_are("a second one");
        // As Docker does at its start (moby, libnetwork's arrangeUserFilterRule
        // and setupIPChains): its own chains are made anew, its user's stays.
        for arguments in [
            "-F DOCKER-FORWARD",
            "-A DOCKER-FORWARD -j DOCKER-CT",
            "-A DOCKER-FORWARD -j DOCKER-BRIDGE",
            "-A DOCKER-FORWARD -i docker0 -j ACCEPT",
            "-D FORWARD -j DOCKER-USER",
            "-I FORWARD -j DOCKER-USER",
        ] {
            iptables(&namespace, arguments);
        }
        as_they_are("a start of Docker's");
        // Without flushing, all of ours is there twice.
        let rules: Vec<&str> =
            saved.lines().filter(|line| line.starts_with("-A DOCKER-USER")).collect();
        let more = format!("*filter\n{}\nCOMMIT\n", rules.join("\n"));
        said("iptables-nft-restore", &namespace, "--noflush", &more).unwrap();
        let twice = iptables(&namespace, "-S DOCKER-USER").unwrap();
        assert_eq!(twice.lines().count(), 2 * ours.lines().count() - 1, "{twice}");
        assert_eq!(kernel.accept_in_docker(&both).unwrap().len(), 4);
        let once = iptables(&namespace, "-S DOCKER-USER").unwrap();
        assert_eq!(once.lines().count(), ours.lines().count(), "{once}");
        // What iptables has written goes like what we have.
        said("iptables-nft-restore", &namespace, "", &saved).unwrap();
        kernel.accept_in_docker(&[]).unwrap();
        assert_eq!(iptables(&namespace, "-S").unwrap(), theirs);
    }
}
