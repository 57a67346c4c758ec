//! What 1.3 added.

use inn_guest_proto::wire::{
    Configure, Done, Network, Resume, ResumeStep, ResumeStepKind, Resumed, end, request,
    resume_step,
};
use inn_guest_proto::{Guest, Host};

use crate::ask;

pub(crate) const REQUESTS: usize = 1;

pub(crate) fn exchange_all(
    host: &mut Host,
    guest: &mut Guest,
    exchange: &mut impl FnMut(&mut Host, &mut Guest),
) {
    let resume = Resume {
        entropy: vec![9; 32].into(),
        mac: vec![2, 1, 2, 3, 4, 5].into(),
        setup: Some(Configure {
            hostname: "golden".into(),
            network: Some(Network {
                address6: vec![0xfd; 16].into(),
                prefix6: 64,
                gateway6: vec![0xfc; 16].into(),
                ..Network::default()
            }),
            ..Configure::default()
        }),
        hooks_ms: 1_000,
    };
    let stream = host.open(ask(request::Kind::Resume(resume))).unwrap();
    exchange(host, guest);

    let step = |kind: ResumeStepKind, result| ResumeStep {
        kind: kind.into(),
        took_ns: 1 << 33,
        result: Some(result),
    };
    let steps = vec![
        step(ResumeStepKind::Entropy, resume_step::Result::Done(Done {})),
        step(ResumeStepKind::Clock, resume_step::Result::Skipped("not asked for".into())),
        step(ResumeStepKind::Hooks, resume_step::Result::Failed("run 10-web".into())),
    ];
    guest.end(stream, end::Outcome::Resumed(Resumed { steps })).unwrap();
    exchange(host, guest);
}
