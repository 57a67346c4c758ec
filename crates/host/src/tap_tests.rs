use super::*;
use crate::netns::Netns;

/// Or why there are no taps here, said aloud.
fn namespace(test: &str) -> Option<Netns> {
    let made = Netns::make();
    let ready = made.and_then(|netns| match netns.run(|| open("inn-tprobe")) {
        Err(error @ (TapError::NoDriver | TapError::NotPermitted { .. })) => {
            Err(io::Error::other(error))
        }
        Ok(_) | Err(_) => Ok(netns),
    });
    ready.inspect_err(|why| println!("SKIPPED {test}: {why}")).ok()
}

#[test]
fn a_tap_lives_as_long_as_its_descriptors() {
    let Some(netns) = namespace("a_tap_lives_as_long_as_its_descriptors") else { return };
    let tap = netns.run(|| open("inn-t0123456789").unwrap());
    assert!(netns.has_interface("inn-t0123456789"));
    let another = tap.try_clone().unwrap();
    drop(tap);
    assert!(netns.has_interface("inn-t0123456789"));
    drop(another);
    assert!(!netns.has_interface("inn-t0123456789"));
}

#[test]
fn a_tap_that_is_there_is_not_taken_over() {
    let Some(netns) = namespace("a_tap_that_is_there_is_not_taken_over") else { return };
    let held = netns.run(|| open("inn-tone").unwrap());
    let error = netns.run(|| open("inn-tone").unwrap_err());
    assert!(matches!(&error, TapError::Held { name } if name == "inn-tone"), "{error}");
    drop(held);
    netns.run(|| open("inn-tone").map(drop).unwrap());
}

#[test]
fn a_name_that_no_device_can_have_is_refused() {
    let Some(netns) = namespace("a_name_that_no_device_can_have_is_refused") else { return };
    let error = netns.run(|| open("inn-t0123456789-and-more").unwrap_err());
    assert!(matches!(error, TapError::Io { step: "TUNSETIFF", .. }), "{error}");
    assert!(!netns.has_interface("inn-t0123456789"));
}
