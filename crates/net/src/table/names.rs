//! What chains and sets are called. A VM's have its id in them, by which what
//! they count is told to be its.

use inn_domain::network::{Attachment, DeclaredNetwork};
use inn_units::VmId;

use crate::nft::IpFamily;

pub(super) fn out_of(card: &Attachment) -> String {
    format!("out-{}", card.vm)
}

pub(super) fn into(card: &Attachment) -> String {
    format!("in-{}", card.vm)
}

pub(super) fn frames_of(card: &Attachment) -> String {
    format!("card-{}", card.vm)
}

pub(super) fn rates_out_of(card: &Attachment) -> String {
    format!("rate-out-{}", card.vm)
}

pub(super) fn rates_into(card: &Attachment) -> String {
    format!("rate-in-{}", card.vm)
}

pub(super) fn leave(network: &DeclaredNetwork) -> String {
    format!("leave-{}", network.id)
}

pub(super) fn nat_from(network: &DeclaredNetwork) -> String {
    format!("nat-from-{}", network.id)
}

pub(super) fn nat_to(network: &DeclaredNetwork) -> String {
    format!("nat-to-{}", network.id)
}

pub(super) fn family(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "4",
        IpFamily::V6 => "6",
    }
}

/// The sets that hold what our DNS answered to a VM for a domain that a rule
/// of its policy has, for IPv4 and IPv6.
///
/// They are named by what the rule says, so that another rule in its place
/// begins with an empty one.
pub fn domain_sets(vm: VmId, domain: &str) -> [String; 2] {
    // FNV-1a, 32 bits.
    let hash = domain
        .to_ascii_lowercase()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    ["4", "6"].map(|family| format!("dns{family}-{vm}-{hash:08x}"))
}
