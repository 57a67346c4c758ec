//! What 1.4 added.

use inn_guest_proto::wire::{Configure, Configured, Network, end, request};
use inn_guest_proto::{Guest, Host};

use crate::ask;

pub(crate) const REQUESTS: usize = 1;

pub(crate) fn exchange_all(
    host: &mut Host,
    guest: &mut Guest,
    exchange: &mut impl FnMut(&mut Host, &mut Guest),
) {
    let configure = Configure {
        hostname: "golden".into(),
        network: Some(Network { dhcp4: true, ..Network::default() }),
        ..Configure::default()
    };
    let stream = host.open(ask(request::Kind::Configure(configure))).unwrap();
    exchange(host, guest);
    guest.end(stream, end::Outcome::Configured(Configured::default())).unwrap();
    exchange(host, guest);
}
