//! A machine with a tap for its network card.

use std::time::Duration;

use inn_host::netns::Netns;
use inn_host::tap::{self, TapError};
use tokio::time::{Instant, sleep};

use super::{Machine, MachineConfig, PATIENCE, Place, Runtime, Subject, skipped};
use crate::{Bucket, CardLimits, Flow, Nic, NicBackend, Tap};

const NAME: &str = "inn-tconform";

/// The kernel removes a device after its last descriptor has closed, and a
/// process's exit may be seen before.
const RETRY: Duration = Duration::from_millis(10);

fn from_guest(per_second: u64) -> CardLimits {
    let bytes = Some(Bucket { per_second, burst: per_second / 4 });
    CardLimits { from_guest: Flow { bytes, packets: None }, to_guest: Flow::default() }
}

/// The machine holds it, and nobody else: neither does the device go before it
/// nor outlive it.
pub(super) async fn tap_lives_as_its_machine(subject: &impl Subject) {
    let runtime = subject.runtime();
    if !runtime.capabilities().taps {
        return skipped(runtime, "a tap");
    }
    let netns = match Netns::make() {
        Ok(netns) => netns,
        Err(why) => return eprintln!("SKIPPED, a tap: no network namespace: {why}"),
    };
    let device = match netns.run(|| tap::open(NAME)) {
        Ok(device) => device,
        Err(why @ (TapError::NoDriver | TapError::NotPermitted { .. })) => {
            return eprintln!("SKIPPED, a tap: {why}");
        }
        Err(error) => panic!("{error}"),
    };
    let place = Place::new();
    let can_limit = runtime.capabilities().card_limits;
    let [limits, others] = [1 << 20, 1 << 21].map(|rate| match can_limit {
        true => from_guest(rate),
        false => CardLimits::default(),
    });
    let backend = NicBackend::Tap(Tap::new(device, 1400).limited(limits));
    let nic = Some(Nic { mac: [0x02, 0, 0, 0, 0, 1], backend });
    let config = MachineConfig { nic, ..subject.staying(place.path()) };
    let machine = place.launch(runtime, &config).await;
    let (id, run_dir, identity) = (config.id, config.run_dir.clone(), machine.identity().clone());
    drop(config);
    assert!(netns.has_interface(NAME), "the machine holds its tap");
    drop(machine);
    let adopted = runtime.adopt(id, &identity, &run_dir).await.expect("adopted");
    assert!(netns.has_interface(NAME), "a tap outlives its machine's handle");
    for limits in [others, others, CardLimits::default(), limits] {
        assert_eq!(adopted.limit_card(&limits).await.is_ok(), can_limit, "as its capability says");
    }
    adopted.kill().await.expect("kill");
    adopted.limit_card(&limits).await.expect_err("it has ended");
    let deadline = Instant::now() + PATIENCE;
    while netns.has_interface(NAME) {
        assert!(Instant::now() < deadline, "a tap is left of a machine that has ended");
        sleep(RETRY).await;
    }
}
