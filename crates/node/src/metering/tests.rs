use std::collections::BTreeMap;
use std::fs;

use inn_meter::By;
use tempfile::TempDir;

use super::*;

/// One life of an agent after the other, on one directory.
struct Ledger {
    directory: TempDir,
    key: NodeKey,
}

impl Ledger {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = NodeKey::open(&directory.path().join("node.key")).unwrap();
        fs::create_dir(directory.path().join("usage")).unwrap();
        Self { directory, key }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("usage")
    }

    fn open(&self) -> Metering {
        Metering::open(self.path(), "node").unwrap()
    }

    /// What is wrong with it.
    fn findings(&self, metering: &Metering) -> Vec<String> {
        let checked = metering.verify(&self.key.public_hex(), None).unwrap();
        checked.report.findings.into_iter().map(|finding| finding.what).collect()
    }
}

fn account(name: &str) -> Account {
    let (name, labels) = (name.to_owned(), BTreeMap::new());
    Account { name, labels, vcpus: 2, memory: 1 << 20, disk: 1 << 30, gpus: 0 }
}

fn vm(n: u8) -> VmId {
    VmId::from_bytes([n; VmId::BYTES])
}

fn life(pid: u32) -> Option<Life> {
    Some(Life { pid, started: 1 })
}

/// Of CPU time, in microseconds.
fn used(metering: &Metering, of: VmId) -> u128 {
    let rows = metering.totals(i64::MIN, i64::MAX, By::Vm).unwrap();
    let row = rows.into_iter().find(|row| row.key == Some(of.to_string()));
    row.map_or(0, |row| row.used.cpu_used)
}

fn runs(metering: &Metering, of: VmId, cpu: u64) {
    metering.moves(of, State::Running, life(7), Counters::default);
    metering.counts(of, Counters { cpu, ..Counters::default() });
}

#[test]
fn an_agent_that_is_killed_loses_nothing() {
    let ledger = Ledger::new();
    let first = ledger.open();
    first.begins(vm(1), account("a"));
    runs(&first, vm(1), 40);
    first.pass(&[], &ledger.key).unwrap();
    first.counts(vm(1), Counters { cpu: 70, ..Counters::default() });
    first.begins(vm(2), account("b"));
    runs(&first, vm(2), 5);
    first.ends(vm(2));
    // Nothing of it is told to anybody when a process is killed.
    drop(first);
    let second = ledger.open();
    assert_eq!((used(&second, vm(1)), used(&second, vm(2))), (70, 5));
    second.counts(vm(1), Counters { cpu: 100, ..Counters::default() });
    second.ends(vm(1));
    second.pass(&[], &ledger.key).unwrap();
    assert_eq!((used(&second, vm(1)), used(&second, vm(2))), (100, 5));
    assert_eq!(ledger.findings(&second), [""; 0]);
    // Each entry once, also where the same agent looks again.
    second.pass(&[], &ledger.key).unwrap();
    drop(second);
    let third = ledger.open();
    assert_eq!((used(&third, vm(1)), used(&third, vm(2))), (100, 5));
}

#[test]
fn what_a_machine_had_before_it_was_a_vm_s_is_nobody_s() {
    let ledger = Ledger::new();
    let metering = ledger.open();
    metering.begins(vm(1), account("a"));
    metering.moves(vm(1), State::Running, life(7), || Counters { cpu: 300, ..Counters::default() });
    metering.counts(vm(1), Counters { cpu: 310, ..Counters::default() });
    assert_eq!(used(&metering, vm(1)), 10);
    // Another machine counts from zero.
    metering.moves(vm(1), State::Stopped, None, Counters::default);
    metering.moves(vm(1), State::Running, life(8), Counters::default);
    metering.counts(vm(1), Counters { cpu: 6, ..Counters::default() });
    assert_eq!(used(&metering, vm(1)), 16);
}

#[test]
fn a_block_is_in_the_ledger_once_wherever_a_pass_has_stopped() {
    let ledger = Ledger::new();
    let metering = ledger.open();
    metering.begins(vm(1), account("a"));
    metering.ends(vm(1));
    metering.pass(&[], &ledger.key).unwrap();
    let file = ledger.path().join("000001.jsonl");
    let whole = fs::read(&file).unwrap();
    // The checkpoint was written, and its line not, or half of it.
    for left in [0, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..left]).unwrap();
        drop(ledger.open());
        assert_eq!(fs::read(&file).unwrap(), whole, "{left}");
    }
    assert_eq!(ledger.findings(&ledger.open()), [""; 0]);
}

#[test]
fn a_lost_checkpoint_costs_what_the_ledger_has_not() {
    let ledger = Ledger::new();
    let metering = ledger.open();
    metering.begins(vm(1), account("a"));
    runs(&metering, vm(1), 40);
    metering.begins(vm(1), Account { vcpus: 3, ..account("a") });
    metering.pass(&[], &ledger.key).unwrap();
    drop(metering);
    for damage in [b"{".as_slice(), b""] {
        let checkpoint = ledger.path().join("checkpoint.json");
        if damage.is_empty() {
            fs::remove_file(&checkpoint).unwrap();
        } else {
            fs::write(&checkpoint, damage).unwrap();
        }
        let metering = ledger.open();
        assert_eq!(used(&metering, vm(1)), 40);
        metering.begins(vm(1), Account { vcpus: 4, ..account("a") });
        metering.pass(&[], &ledger.key).unwrap();
        assert_eq!(ledger.findings(&metering), [""; 0]);
        metering.begins(vm(1), account("a"));
        metering.pass(&[], &ledger.key).unwrap();
    }
}

#[test]
fn a_shortened_ledger_is_found_and_nothing_hides_it() {
    let ledger = Ledger::new();
    let metering = ledger.open();
    for n in 1..4 {
        metering.begins(vm(n), account("a"));
        metering.ends(vm(n));
        metering.pass(&[], &ledger.key).unwrap();
    }
    // So that no checkpoint has the line that goes.
    metering.pass(&[], &ledger.key).unwrap();
    metering.pass(&[], &ledger.key).unwrap();
    drop(metering);
    let file = ledger.path().join("000001.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<_> = text.lines().collect();
    fs::write(&file, format!("{}\n{}\n", lines[0], lines[1])).unwrap();
    let metering = ledger.open();
    assert_eq!(ledger.findings(&metering), ["1 blocks are missing at the end"]);
    metering.begins(vm(9), account("a"));
    metering.ends(vm(9));
    metering.pass(&[], &ledger.key).unwrap();
    let found = ledger.findings(&metering);
    assert!(found.iter().any(|what| what.contains("block 3 should be here")), "{found:?}");
}

#[test]
fn another_key_s_ledger_is_not_this_node_s() {
    let ledger = Ledger::new();
    let metering = ledger.open();
    metering.begins(vm(1), account("a"));
    metering.ends(vm(1));
    let other = Ledger::new();
    metering.pass(&[], &other.key).unwrap();
    assert_eq!(ledger.findings(&metering), ["it is signed by another key than this node's"]);
    assert_eq!(verify(&ledger.path(), &other.key.public_hex(), None).unwrap().report.found, 0);
}

#[test]
fn a_full_disk_holds_the_ledger_up_and_loses_nothing() {
    let ledger = Ledger::new();
    let metering = ledger.open();
    metering.begins(vm(1), account("a"));
    runs(&metering, vm(1), 40);
    metering.ends(vm(1));
    // Nothing can be written to what is a directory.
    let file = ledger.path().join("000001.jsonl");
    fs::create_dir(&file).unwrap();
    metering.pass(&[], &ledger.key).unwrap_err();
    fs::remove_dir(&file).unwrap();
    assert_eq!(used(&metering, vm(1)), 40);
    drop(metering);
    let metering = ledger.open();
    assert_eq!(used(&metering, vm(1)), 40);
    metering.pass(&[], &ledger.key).unwrap();
    assert_eq!((used(&metering, vm(1)), ledger.findings(&metering).len()), (40, 0));
}

#[test]
fn a_disk_that_is_full_for_long_has_no_more_and_more_lines_wait() {
    let ledger = Ledger::new();
    let metering = ledger.open();
    let file = ledger.path().join("000001.jsonl");
    fs::create_dir(&file).unwrap();
    for n in 1..100 {
        metering.begins(vm(n), account("a"));
        runs(&metering, vm(n), 40);
        metering.ends(vm(n));
        metering.pass(&[], &ledger.key).unwrap_err();
        assert_eq!(metering.unsent(), 1, "after {n} passes");
    }
    fs::remove_dir(&file).unwrap();
    // What waited is written in the first pass that can.
    metering.pass(&[], &ledger.key).unwrap();
    assert_eq!((metering.unsent(), metering.lock().meter.waiting()), (0, 0));
    assert_eq!((used(&metering, vm(1)), used(&metering, vm(99))), (40, 40));
    assert_eq!(ledger.findings(&metering), [""; 0]);
}

/// Six files of a ledger whose host's clock was set back in the third.
fn written(ledger: &Ledger) {
    const HOUR: i64 = 3_600_000;
    let mut meter = Meter::new("node".to_owned(), "boot".to_owned(), inn_meter::Head::none());
    let mut now = Moment { wall: 100 * HOUR, steady: 1 };
    for n in 1..3 {
        meter.input(&Input { at: now, vm: vm(n), what: What::Begins(account("a")) });
        let what = What::Moves { state: State::Running, life: life(n.into()) };
        meter.input(&Input { at: now, vm: vm(n), what });
    }
    for file in 1..7 {
        let mut text = String::new();
        for pass in 0..4u8 {
            now.wall += HOUR / 2;
            now.steady += HOUR.unsigned_abs() * 500;
            if (file, pass) == (3, 1) {
                now.wall -= 30 * HOUR;
            }
            if (file, pass) == (3, 3) {
                now.wall += 40 * HOUR;
            }
            let life = Life { pid: 1, started: 1 };
            let counters = Counters { cpu: now.steady / 7, sent: 0, received: 0 };
            meter.input(&Input { at: now, vm: vm(1), what: What::Counts { life, counters } });
            while let Some(line) = meter.block(now, &ledger.key).unwrap() {
                text.push_str(&line);
                text.push('\n');
            }
        }
        meter.new_file();
        fs::write(ledger.path().join(format!("{file:06}.jsonl")), text).unwrap();
    }
}

#[test]
fn what_is_asked_of_a_time_is_the_same_with_and_without_the_other_files() {
    const HOUR: i64 = 3_600_000;
    let ledger = Ledger::new();
    written(&ledger);
    let metering = ledger.open();
    assert_eq!(ledger.findings(&metering), [""; 0]);
    // Its VMs are there still: what they have had since is in no file.
    let whole = || metering.totals(0, 200 * HOUR, By::Vm).unwrap();
    let all = whole();
    for from in 65..155 {
        for to in [from + 1, from + 3, from + 20] {
            let (from, to) = (from * HOUR + 7, to * HOUR + 11);
            let quick = metering.totals(from, to, By::Vm).unwrap();
            *metering.files.lock().unwrap() = Ranges::default();
            assert_eq!(quick, metering.totals(from, to, By::Vm).unwrap(), "{from} to {to}");
        }
    }
    // A file of another time is not looked into: what it has is not missed. One
    // that has changed is.
    let path = ledger.path().join("000001.jsonl");
    let (text, modified) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified());
    let later = (103 * HOUR, 104 * HOUR);
    let before = metering.totals(later.0, later.1, By::Vm).unwrap();
    fs::write(&path, vec![b' '; text.len()]).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified.unwrap()).unwrap();
    assert_eq!(metering.totals(later.0, later.1, By::Vm).unwrap(), before);
    assert_ne!(whole(), all);
    assert_ne!(ledger.findings(&metering), [""; 0], "a check reads all of it");
    fs::write(&path, text).unwrap();
    assert_eq!(whole(), all);
}

#[test]
fn a_disk_that_takes_nothing_keeps_no_agent_from_its_start() {
    let ledger = Ledger::new();
    // Neither a checkpoint can be written there, nor the ledger.
    fs::create_dir(ledger.path().join("checkpoint.new")).unwrap();
    let metering = ledger.open();
    metering.begins(vm(1), account("a"));
    runs(&metering, vm(1), 40);
    metering.pass(&[], &ledger.key).unwrap_err();
    assert_eq!(used(&metering, vm(1)), 40);
    fs::remove_dir(ledger.path().join("checkpoint.new")).unwrap();
    metering.ends(vm(1));
    metering.pass(&[], &ledger.key).unwrap();
    assert_eq!((used(&metering, vm(1)), ledger.findings(&metering).len()), (40, 0));
}

/// The ledger's promise: less than a KiB per VM and hour at rest.
#[test]
fn an_hour_at_rest_takes_less_than_a_kibibyte() {
    let ledger = Ledger::new();
    let labels = (0..4).map(|n| (format!("label-{n}"), format!("a value of it {n}"))).collect();
    let mut meter = Meter::new("node-0123".to_owned(), "b".repeat(36), inn_meter::Head::none());
    let mut now = Moment { wall: 1_790_000_000_000, steady: 500_000_000_000 };
    let begins = |n: u8| {
        let what = What::Begins(Account {
            labels: BTreeMap::clone(&labels),
            ..account("a-vm-with-a-name")
        });
        Input { at: now, vm: vm(n), what }
    };
    for n in 0..100 {
        meter.input(&begins(n));
        let what = What::Moves { state: State::Running, life: life(u32::from(n)) };
        meter.input(&Input { at: now, vm: vm(n), what });
    }
    let mut size = 0;
    for minute in 0..24 * 60u64 {
        now = Moment { wall: now.wall + 60_000, steady: now.steady + 60_000_000 };
        for n in 0..100 {
            let counters =
                Counters { cpu: minute * 1_234_567, sent: minute << 20, received: minute << 22 };
            let life = Life { pid: n.into(), started: 1 };
            let weighs = What::Weighs { resident: 200 << 20, occupied: 3 << 30 };
            for what in [What::Counts { life, counters }, weighs] {
                meter.input(&Input { at: now, vm: vm(n), what });
            }
        }
        while let Some(line) = meter.block(now, &ledger.key).unwrap() {
            size += line.len();
        }
    }
    let each = size / 100 / 24;
    assert!((100..600).contains(&each), "{each} bytes");
}
