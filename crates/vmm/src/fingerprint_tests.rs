use super::*;

fn saved() -> Fingerprint {
    Fingerprint {
        runtime: "qemu".into(),
        version: "7.2.22".into(),
        arch: "x86_64".into(),
        page_size: Bytes::kib(4),
        accel: Accel::Kvm,
        machine: "microvm".into(),
        cpu: "host".into(),
        cpu_features: ["avx2", "sse2"].map(str::to_owned).into(),
        counter_khz: Some(2_600_000),
        vcpus: Vcpus::ONE,
        memory: Bytes::mib(128),
        kernel: Some("sha256:aa".into()),
        devices: vec!["a serial channel".into(), "a disk inn-rw".into()],
        card: Some(Card::Tap),
    }
}

fn what(here: &Fingerprint) -> Vec<String> {
    saved().misfits(here).iter().map(Misfit::to_string).collect()
}

#[test]
fn what_is_the_same_fits() {
    assert_eq!(what(&saved()), [""; 0]);
    let more = Fingerprint {
        cpu_features: ["avx2", "avx512f", "sse2"].map(str::to_owned).into(),
        counter_khz: Some(2_600_100),
        ..saved()
    };
    assert_eq!(what(&more), [""; 0], "a better CPU of the same rate");
}

#[test]
fn each_difference_is_named() {
    let is = |here: Fingerprint, sentence: &str| assert_eq!(what(&here), [sentence]);
    is(
        Fingerprint { version: "8.2.0".into(), ..saved() },
        "it was saved with the VMM's version 7.2.22, and here is 8.2.0",
    );
    is(
        Fingerprint { runtime: "sim".into(), ..saved() },
        "it was saved with the runtime qemu, and here is sim",
    );
    is(
        Fingerprint { arch: "aarch64".into(), ..saved() },
        "it was saved with the architecture x86_64, and here is aarch64",
    );
    is(
        Fingerprint { page_size: Bytes::kib(64), ..saved() },
        "it was saved with the page size 4KiB, and here is 64KiB",
    );
    is(
        Fingerprint { accel: Accel::Tcg, ..saved() },
        "it was saved with the acceleration kvm, and here is tcg",
    );
    is(
        Fingerprint { machine: "q35".into(), ..saved() },
        "it was saved with the machine type microvm, and here is q35",
    );
    is(
        Fingerprint { cpu: "max".into(), ..saved() },
        "it was saved with the CPU model host, and here is max",
    );
    is(
        Fingerprint { cpu_features: ["sse2".to_owned()].into(), ..saved() },
        "it was saved with the CPU features avx2, and here is a CPU without them",
    );
    is(
        Fingerprint { counter_khz: Some(2_700_000), ..saved() },
        "it was saved with a time counter of 2600000 kHz, and here is 2700000 kHz",
    );
    is(
        Fingerprint { counter_khz: None, ..saved() },
        "it was saved with a time counter of 2600000 kHz, and here is one whose rate is not constant",
    );
    is(
        Fingerprint { vcpus: Vcpus::new(2).unwrap(), ..saved() },
        "it was saved with the vCPU count 1, and here is 2",
    );
    is(
        Fingerprint { memory: Bytes::mib(256), ..saved() },
        "it was saved with the memory size 128MiB, and here is 256MiB",
    );
    is(
        saved().with_kernel("sha256:bb"),
        "it was saved with the kernel sha256:aa, and here is sha256:bb",
    );
    is(
        Fingerprint { devices: vec!["a serial channel".into()], ..saved() },
        "it was saved with the device a disk inn-rw, and here is no such device",
    );
    is(
        Fingerprint { card: Some(Card::User), ..saved() },
        "it was saved with a network card on a tap, and here is the VMM's own network",
    );
}

#[test]
fn only_a_card_with_nothing_behind_it_is_anybodys() {
    let cards = [None, Some(Card::Nothing), Some(Card::User), Some(Card::Tap)];
    for from in cards {
        for to in cards {
            let fits = from == to || (from == Some(Card::Nothing) && to.is_some());
            assert_eq!(cards_agree(from, to), fits, "{from:?} to {to:?}");
        }
    }
}
