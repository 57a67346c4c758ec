//! How much VMs have sent: what has come out of their taps.

use inn_netlink::Error;
use inn_netlink::route::{Link, Rtnetlink};

#[derive(Debug, thiserror::Error)]
#[error("cannot ask for the links' counters")]
pub struct SentError(#[from] Error);

/// Each link of the calling thread's network namespace, and how many packets
/// have come in by it. Of a tap they are its machine's; what is sent to that,
/// and router advertisements to all, are not among them. Blocks, shortly.
pub fn of_links() -> Result<Vec<(String, u64)>, SentError> {
    let links = Rtnetlink::open()?.links()?;
    let packets_in = |link: Link| {
        let [packets, ..] = link.counters;
        (link.name, packets)
    };
    Ok(links.into_iter().map(packets_in).collect())
}
