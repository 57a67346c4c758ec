//! Our bridges in firewalld's zone for what is trusted, where the configuration
//! asks for that: at runtime and not for good, as the agent sees to it again
//! after a reload. By its own program; what it says is read, and asked for.

use inn_units::InterfaceName;

/// It accepts what comes in through its interfaces, and lets it go on from
/// there; our own tables judge all the same (firewalld.zones(5)).
const ZONE: &str = "trusted";

/// Asks firewalld's program, with arguments, and tells what it has answered.
pub trait Ask {
    fn ask(&self, arguments: &[&str]) -> Result<String, String>;
}

/// Why it does not know our bridges.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// `said` is its program's last word, or that there is no such program.
    #[error(
        "network.foreign is \"firewalld\", and it cannot be asked ({said}): start it, or set network.foreign to \"none\""
    )]
    NotThere { said: String },
    /// Its owner has put it elsewhere, say.
    #[error(
        "firewalld does not take {bridge} into its zone {ZONE} ({said}): see `firewall-cmd --get-zone-of-interface={bridge}`"
    )]
    Refused { bridge: InterfaceName, said: String },
}

/// What was changed, in words, and what could not be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub done: Vec<String>,
    pub refused: Vec<ZoneError>,
}

/// Has the zone hold these bridges, and not those that were put there before,
/// unless their owner has put them there for good.
pub fn keep_in_zone(
    firewalld: &impl Ask,
    wanted: &[InterfaceName],
    before: &[InterfaceName],
) -> Result<Kept, ZoneError> {
    let zone = format!("--zone={ZONE}");
    let there = firewalld
        .ask(&[&zone, "--list-interfaces"])
        .map_err(|said| ZoneError::NotThere { said })?;
    let is_there = |bridge: &InterfaceName| {
        there.split_whitespace().any(|interface| interface == bridge.as_str())
    };
    let mut kept = Kept::default();
    for bridge in wanted.iter().filter(|bridge| !is_there(bridge)) {
        match firewalld.ask(&[&zone, &format!("--add-interface={bridge}")]) {
            Ok(_) => kept.done.push(format!("put {bridge} into firewalld's zone {ZONE}")),
            Err(said) => kept.refused.push(ZoneError::Refused { bridge: bridge.clone(), said }),
        }
    }
    let gone = before.iter().filter(|bridge| !wanted.contains(bridge) && is_there(bridge));
    for bridge in gone {
        let for_good = format!("--query-interface={bridge}");
        if firewalld.ask(&["--permanent", &zone, &for_good]).is_ok() {
            continue;
        }
        match firewalld.ask(&[&zone, &format!("--remove-interface={bridge}")]) {
            Ok(_) => kept.done.push(format!("took {bridge} out of firewalld's zone {ZONE}")),
            Err(said) => kept.refused.push(ZoneError::Refused { bridge: bridge.clone(), said }),
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::*;

    /// What it has at runtime and for good, as its program answers.
    #[derive(Default)]
    struct Pretended {
        zone: RefCell<BTreeSet<String>>,
        for_good: BTreeSet<String>,
        elsewhere: Option<&'static str>,
    }

    impl Ask for Pretended {
        fn ask(&self, arguments: &[&str]) -> Result<String, String> {
            let last = arguments.last().unwrap();
            let (what, bridge) = last.split_once('=').unwrap_or((last, ""));
            let mut zone = self.zone.borrow_mut();
            match what {
                "--list-interfaces" => Ok(zone.iter().cloned().collect::<Vec<_>>().join(" ")),
                "--add-interface" if self.elsewhere == Some(bridge) => {
                    Err("ZONE_CONFLICT: already bound to a zone".to_owned())
                }
                "--add-interface" => Ok(zone.insert(bridge.to_owned()).to_string()),
                "--remove-interface" => Ok(zone.remove(bridge).to_string()),
                "--query-interface" if self.for_good.contains(bridge) => Ok("yes".to_owned()),
                _ => Err("no".to_owned()),
            }
        }
    }

    fn bridges(names: &[&str]) -> Vec<InterfaceName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn ours_come_and_go_and_others_stay() {
        let firewalld = Pretended {
            zone: RefCell::new(["eth1", "inn-b3"].map(str::to_owned).into()),
            for_good: ["inn-b3".to_owned()].into(),
            elsewhere: Some("inn-b4"),
        };
        let now = || firewalld.zone.borrow().iter().cloned().collect::<Vec<_>>().join(" ");
        let wanted = bridges(&["inn-b1", "inn-b2", "inn-b3", "inn-b4"]);
        let kept = keep_in_zone(&firewalld, &wanted, &[]).unwrap();
        assert_eq!(kept.done.len(), 2, "{kept:?}");
        assert_eq!(
            kept.refused[0].to_string(),
            "firewalld does not take inn-b4 into its zone trusted (ZONE_CONFLICT: already bound \
             to a zone): see `firewall-cmd --get-zone-of-interface=inn-b4`"
        );
        assert_eq!(now(), "eth1 inn-b1 inn-b2 inn-b3");
        // One of a network that is gone.
        let kept = keep_in_zone(&firewalld, &wanted[1..], &wanted).unwrap();
        assert_eq!(kept.done, ["took inn-b1 out of firewalld's zone trusted"]);
        // What its owner has put there for good stays when ours go.
        keep_in_zone(&firewalld, &[], &wanted).unwrap();
        assert_eq!(now(), "eth1 inn-b3");
        assert_eq!(keep_in_zone(&firewalld, &[], &wanted), Ok(Kept::default()));
    }

    #[test]
    fn where_there_is_none_it_is_said() {
        struct Nothing;
        impl Ask for Nothing {
            fn ask(&self, _: &[&str]) -> Result<String, String> {
                Err("FirewallD is not running".to_owned())
            }
        }
        let error = keep_in_zone(&Nothing, &[], &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "network.foreign is \"firewalld\", and it cannot be asked (FirewallD is not running): \
             start it, or set network.foreign to \"none\""
        );
    }
}
