//! Whose known connections are to be judged anew: tables let through what the
//! kernel knows already. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use inn_domain::network::{Attachment, Declared};
use inn_units::VmId;

/// Addresses of VMs that are gone, have other addresses, or another policy.
pub(super) fn severed(before: &Declared, after: &Declared) -> BTreeSet<IpAddr> {
    let now: BTreeMap<VmId, &Attachment> =
        after.attachments.iter().map(|attachment| (attachment.vm, attachment)).collect();
    let stays = |old: &&Attachment| {
        now.get(&old.vm).is_some_and(|new| {
            new.policy == old.policy && new.ipv4 == old.ipv4 && new.ipv6 == old.ipv6
        })
    };
    before.attachments.iter().filter(|old| !stays(old)).flat_map(addresses).collect()
}

fn addresses(of: &Attachment) -> impl Iterator<Item = IpAddr> {
    of.ipv4.map(IpAddr::V4).into_iter().chain(of.ipv6.map(IpAddr::V6))
}

#[cfg(test)]
mod tests {
    use inn_domain::network::Policy;
    use inn_units::NetworkId;

    use super::*;

    fn attachment(id: u8) -> Attachment {
        Attachment {
            vm: VmId::from_bytes([id; 5]),
            name: format!("vm-{id}").parse().unwrap(),
            network: NetworkId::from_bytes([1; 5]),
            mac: [2, 0, 0, 0, 0, id],
            ipv4: Some([10, 0, 0, id].into()),
            ipv6: None,
            policy: Policy::AllowAll,
        }
    }

    fn of(attachments: Vec<Attachment>) -> Declared {
        Declared { attachments, ..Declared::default() }
    }

    #[test]
    fn what_stays_keeps_its_connections() {
        let before = of((1..=4).map(attachment).collect());
        assert!(severed(&before, &before).is_empty());
        let moved = Attachment { ipv4: Some([10, 0, 0, 9].into()), ..attachment(2) };
        let denied = Attachment { policy: Policy::None, ..attachment(3) };
        let after = of(vec![attachment(1), moved, denied, attachment(5)]);
        let ended: BTreeSet<IpAddr> =
            [2, 3, 4].map(|id| IpAddr::from([10, 0, 0, id])).into_iter().collect();
        assert_eq!(severed(&before, &after), ended, "by their old addresses");
    }
}
