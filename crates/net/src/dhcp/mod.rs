//! Addresses for VMs that ask: DHCP of both families. What is declared is
//! what is answered: nothing is leased here, so a client can take nothing from
//! anybody by asking, declining or releasing.

mod request;
pub(crate) mod v4;
pub(crate) mod v6;

use std::time::Duration;

/// What a client may hold its address for without being told again: an agent
/// that is down for less is missed by nobody.
const LEASE: Duration = Duration::from_secs(24 * 3600);

/// When it asks whether anything has changed, such as the MTU.
const RENEW: Duration = Duration::from_secs(3600);

/// When it asks whoever answers (RFC 2131, 4.4.5).
const REBIND: Duration = Duration::from_secs(21 * 3600);

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// The domain in which a network's VMs have their names.
pub(crate) fn domain(network: &inn_units::NetworkName) -> String {
    format!("{network}.{}", crate::dns::ZONE)
}
