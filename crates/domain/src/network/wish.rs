use core::net::{Ipv4Addr, Ipv6Addr};

/// Addresses that a VM is to have on its network; where there is none, one of
/// the node's choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddressWish {
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}
