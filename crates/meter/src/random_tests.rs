//! Histories at random, beside a count that keeps no intervals.

use std::collections::BTreeMap;

use inn_units::VmId;
use proptest::prelude::*;

use crate::{
    Account, Audit, By, Counters, Head, Input, Life, Meter, Moment, Report, Signer, State, Totals,
    Used, What,
};

/// A checksum in the place of a signature: it shows that all is signed.
struct Sums;

impl Signer for Sums {
    fn key(&self) -> String {
        "key".to_owned()
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        crate::block::hash(message).into_bytes()
    }
}

fn genuine(key: &str, message: &[u8], signature: &[u8]) -> Result<(), String> {
    if key == "key" && signature == Sums.sign(message) {
        Ok(())
    } else {
        Err("it is signed by somebody else".to_owned())
    }
}

#[derive(Debug, Clone)]
enum Deed {
    Create(u8),
    Start(u8),
    Pause(u8),
    Stop(u8),
    Delete(u8),
    Label(u8, u8),
    /// Microseconds of CPU, bytes.
    Work(u8, u32, u32),
    Weigh(u8, u32, u32),
    Tick,
    Write,
    NewFile,
    /// The disk takes no block.
    Gather,
    /// The state is kept, so that later deeds are replayed over it.
    Checkpoint,
    /// The agent dies, is away for so many milliseconds, and this VM with it.
    Crash(u32, Option<u8>),
    /// The host is off for so many milliseconds.
    Reboot(u32),
    /// Milliseconds, either way.
    SetClock(i32),
}

fn deed() -> impl Strategy<Value = Deed> {
    let vm = 0u8..4;
    prop_oneof![
        2 => vm.clone().prop_map(Deed::Create),
        4 => vm.clone().prop_map(Deed::Start),
        2 => vm.clone().prop_map(Deed::Pause),
        2 => vm.clone().prop_map(Deed::Stop),
        1 => vm.clone().prop_map(Deed::Delete),
        1 => (vm.clone(), 0u8..3).prop_map(|(vm, label)| Deed::Label(vm, label)),
        4 => (vm.clone(), 0u32..9_000_000, 0u32..1 << 30).prop_map(|(vm, cpu, sent)| Deed::Work(vm, cpu, sent)),
        3 => (vm.clone(), any::<u32>(), any::<u32>()).prop_map(|(vm, resident, occupied)| Deed::Weigh(vm, resident, occupied)),
        2 => Just(Deed::Tick),
        2 => Just(Deed::Write),
        1 => Just(Deed::NewFile),
        1 => Just(Deed::Gather),
        1 => Just(Deed::Checkpoint),
        1 => (0u32..9_000_000, proptest::option::of(vm)).prop_map(|(away, dies)| Deed::Crash(away, dies)),
        1 => (0u32..9_000_000).prop_map(Deed::Reboot),
        1 => (-9_000_000i32..9_000_000).prop_map(Deed::SetClock),
    ]
}

/// What is counted without intervals, hours or blocks.
#[derive(Debug, Clone)]
struct Counted {
    account: Account,
    state: State,
    resident: u64,
    occupied: u64,
    used: Used,
}

struct History {
    meter: Meter,
    checkpoint: String,
    since: Vec<Input>,
    now: Moment,
    boot: u32,
    lives: u32,
    work: BTreeMap<VmId, (Life, Counters)>,
    /// One of files that begin with a mark.
    lines: Vec<Option<String>>,
    there: BTreeMap<VmId, Counted>,
    totals: BTreeMap<VmId, Used>,
    ids: BTreeMap<u8, VmId>,
    made: u8,
}

impl History {
    fn new() -> Self {
        let meter = Meter::new("node".to_owned(), "boot 0".to_owned(), Head::none());
        Self {
            checkpoint: serde_json::to_string(&meter).unwrap(),
            meter,
            since: Vec::new(),
            now: Moment { wall: 1_700_000_000_000, steady: 5_000_000 },
            boot: 0,
            lives: 0,
            work: BTreeMap::new(),
            lines: Vec::new(),
            there: BTreeMap::new(),
            totals: BTreeMap::new(),
            ids: BTreeMap::new(),
            made: 0,
        }
    }

    fn passes(&mut self, millis: u32) {
        self.now.wall += i64::from(millis);
        self.now.steady += u64::from(millis) * 1000;
        for counted in self.there.values_mut() {
            counted.passes(u64::from(millis) * 1000);
        }
    }

    fn tell(&mut self, vm: VmId, what: What) {
        let input = Input { at: self.now, vm, what };
        self.meter.input(&input);
        self.since.push(input);
    }

    fn write(&mut self) {
        while let Some(line) = self.meter.block(self.now, &Sums).unwrap() {
            self.lines.push(Some(line));
        }
        self.checkpoint();
    }

    fn checkpoint(&mut self) {
        self.checkpoint = serde_json::to_string(&self.meter).unwrap();
        self.since.clear();
    }

    /// What the agent's next life knows.
    fn crash(&mut self) {
        self.meter = serde_json::from_str(&self.checkpoint).unwrap();
        for input in &self.since {
            self.meter.input(input);
        }
    }

    fn stops(&mut self, vm: VmId, what: What) {
        self.tell(vm, what);
        if let Some(counted) = self.there.get_mut(&vm) {
            (counted.state, counted.resident) = (State::Stopped, 0);
        }
        self.work.remove(&vm);
    }

    fn on(&mut self, deed: Deed) {
        match deed {
            Deed::Create(n) if !self.ids.contains_key(&n) => {
                self.made += 1;
                let vm = VmId::from_bytes([self.made; VmId::BYTES]);
                let account = account(n, 0);
                self.ids.insert(n, vm);
                self.tell(vm, What::Begins(account.clone()));
                self.there.insert(vm, Counted::new(account));
            }
            Deed::Tick => self.meter.tick(self.now),
            Deed::Write => self.write(),
            Deed::NewFile => {
                self.write();
                self.meter.new_file();
                self.lines.push(None);
                self.checkpoint();
            }
            Deed::Gather => {
                self.meter.gather(0);
                self.checkpoint();
            }
            Deed::Checkpoint => self.checkpoint(),
            Deed::Crash(away, dies) => {
                self.meter.tick(self.now);
                self.checkpoint();
                let dies = dies.and_then(|n| self.ids.get(&n).copied());
                let before = dies.and_then(|vm| Some((vm, self.there.get(&vm)?.clone())));
                self.passes(away);
                self.crash();
                self.meter.resume(&format!("boot {}", self.boot), self.now);
                if let Some((vm, was)) = before {
                    // Its machine counts up to when it was seen; its disk goes on.
                    let occupied = self.there[&vm].used.disk_occupied;
                    let allotted = self.there[&vm].used.disk_allotted;
                    let counted = self.there.get_mut(&vm).unwrap();
                    counted.used = was.used;
                    counted.used.disk_occupied = occupied;
                    counted.used.disk_allotted = allotted;
                    self.stops(vm, What::Lost);
                }
                self.checkpoint();
            }
            Deed::Reboot(off) => {
                self.meter.tick(self.now);
                self.checkpoint();
                self.boot += 1;
                self.crash();
                self.now = Moment { wall: self.now.wall + i64::from(off), steady: u64::from(off) };
                self.meter.resume(&format!("boot {}", self.boot), self.now);
                for counted in self.there.values_mut() {
                    (counted.state, counted.resident) = (State::Stopped, 0);
                }
                self.work.clear();
                self.checkpoint();
            }
            Deed::SetClock(by) => self.now.wall += i64::from(by),
            Deed::Create(n)
            | Deed::Start(n)
            | Deed::Pause(n)
            | Deed::Stop(n)
            | Deed::Delete(n)
            | Deed::Label(n, _)
            | Deed::Work(n, ..)
            | Deed::Weigh(n, ..) => {
                if let Some(vm) = self.ids.get(&n).copied() {
                    self.on_vm(n, vm, &deed);
                }
            }
        }
    }

    fn on_vm(&mut self, n: u8, vm: VmId, deed: &Deed) {
        let state = self.there[&vm].state;
        match *deed {
            Deed::Start(_) => {
                if state == State::Stopped {
                    self.lives += 1;
                    let life = Life { pid: self.lives, started: 7 };
                    let had = Counters { cpu: u64::from(self.lives % 3), sent: 0, received: 0 };
                    self.work.insert(vm, (life, had));
                    self.there.get_mut(&vm).unwrap().resident = 0;
                }
                let (life, had) = self.work[&vm];
                self.tell(vm, What::Moves { state: State::Running, life: Some(life) });
                if state == State::Stopped {
                    self.tell(vm, What::Had { life, counters: had });
                }
                self.there.get_mut(&vm).unwrap().state = State::Running;
            }
            Deed::Pause(_) if state == State::Running => {
                let (life, _) = self.work[&vm];
                self.tell(vm, What::Moves { state: State::Paused, life: Some(life) });
                self.there.get_mut(&vm).unwrap().state = State::Paused;
            }
            Deed::Stop(_) => self.stops(vm, What::Moves { state: State::Stopped, life: None }),
            Deed::Delete(_) => {
                self.tell(vm, What::Ends);
                let counted = self.there.remove(&vm).unwrap();
                self.totals.insert(vm, counted.used);
                self.ids.remove(&n);
                self.work.remove(&vm);
            }
            Deed::Label(_, label) => {
                let account = account(n, label);
                self.tell(vm, What::Changes(account.clone()));
                self.there.get_mut(&vm).unwrap().account = account;
            }
            Deed::Work(_, cpu, sent) if state == State::Running => {
                let (life, counters) = self.work.get_mut(&vm).unwrap();
                counters.cpu += u64::from(cpu);
                counters.sent += u64::from(sent);
                counters.received += 1;
                let what = What::Counts { life: *life, counters: *counters };
                self.tell(vm, what);
                let used = &mut self.there.get_mut(&vm).unwrap().used;
                used.cpu_used += u128::from(cpu);
                used.sent += u128::from(sent);
                used.received += 1;
            }
            Deed::Weigh(_, resident, occupied) => {
                let (resident, occupied) = (u64::from(resident), u64::from(occupied));
                self.tell(vm, What::Weighs { resident, occupied });
                let counted = self.there.get_mut(&vm).unwrap();
                counted.resident = if state == State::Stopped { 0 } else { resident };
                counted.occupied = occupied;
            }
            _ => {}
        }
    }

    fn audited(&self, lines: &[Option<String>]) -> (Report, BTreeMap<VmId, Used>) {
        let mut audit = Audit::new(Head::none());
        audit.expect(self.meter.head().clone());
        let mut totals = Totals::new(i64::MIN, i64::MAX, By::Vm);
        for (number, line) in (1..).zip(lines) {
            match line {
                None => audit.file(),
                Some(line) => {
                    audit.line(("usage", number), line.as_bytes(), genuine, |entry, account| {
                        totals.add(entry, account);
                    })
                }
            }
        }
        for (entry, account) in self.meter.unwritten(self.now) {
            totals.add(&entry, &account);
        }
        let used =
            totals.rows().into_iter().map(|row| (row.key.unwrap().parse().unwrap(), row.used));
        (audit.finish(), used.collect())
    }

    fn expected(&self) -> BTreeMap<VmId, Used> {
        let there = self.there.iter().map(|(vm, counted)| (*vm, counted.used));
        let whole = |(vm, used): (VmId, Used)| (vm, in_seconds(used));
        there
            .chain(self.totals.clone())
            .map(whole)
            .filter(|(_, used)| *used != Used::default())
            .collect()
    }
}

impl Counted {
    fn new(account: Account) -> Self {
        Self { account, state: State::Stopped, resident: 0, occupied: 0, used: Used::default() }
    }

    fn passes(&mut self, micros: u64) {
        let micros = u128::from(micros);
        let Self { account, state, resident, occupied, used } = self;
        used.disk_allotted += micros * u128::from(account.disk);
        used.disk_occupied += micros * u128::from(*occupied);
        if *state == State::Running {
            used.cpu_allotted += micros * u128::from(account.vcpus);
            used.gpu_allotted += micros * u128::from(account.gpus);
        }
        if *state != State::Stopped {
            used.memory_allotted += micros * u128::from(account.memory);
            used.memory_resident += micros * u128::from(*resident);
        }
    }
}

/// What is measured is written down in whole byte-seconds.
fn in_seconds(used: Used) -> Used {
    let whole = |area: u128| area / 1_000_000 * 1_000_000;
    Used {
        memory_resident: whole(used.memory_resident),
        disk_occupied: whole(used.disk_occupied),
        ..used
    }
}

fn account(n: u8, label: u8) -> Account {
    Account {
        name: format!("vm-{n}"),
        labels: BTreeMap::from([("team".to_owned(), format!("team-{label}"))]),
        vcpus: u32::from(n) + 1,
        memory: 128 << 20,
        disk: 2 << 30,
        gpus: u32::from(label == 2),
    }
}

fn lived(deeds: Vec<(u32, Deed)>) -> History {
    let mut history = History::new();
    for (millis, deed) in deeds {
        history.passes(millis);
        history.on(deed);
    }
    history.write();
    history
}

fn deeds() -> impl Strategy<Value = Vec<(u32, Deed)>> {
    proptest::collection::vec((0u32..2_000_000, deed()), 1..60)
}

/// Two VMs for a hundred hours, of which nothing can be written.
#[test]
fn what_waits_takes_no_more_the_longer_it_waits() {
    let mut history = History::new();
    for n in 0..2 {
        history.on(Deed::Create(n));
        history.on(Deed::Start(n));
        history.on(Deed::Weigh(n, 7_000_000, 9));
    }
    history.write();
    for hour in 0..100 {
        history.on(Deed::Work(0, hour, 1));
        history.passes(3_600_000);
        history.meter.tick(history.now);
        history.meter.gather(10);
        assert!(history.meter.waiting() <= 10, "{}", history.meter.waiting());
    }
    history.on(Deed::Label(1, 2));
    history.on(Deed::Delete(1));
    history.write();
    let (report, used) = history.audited(&history.lines);
    assert_eq!((report.findings, used), (Vec::new(), history.expected()));
}

proptest! {
    #[test]
    fn what_is_written_is_what_was_used(deeds in deeds()) {
        let history = lived(deeds);
        let (report, mut used) = history.audited(&history.lines);
        prop_assert_eq!(&report.findings, &Vec::new());
        used.retain(|_, used| *used != Used::default());
        prop_assert_eq!(used, history.expected());
    }

    #[test]
    fn parts_of_the_time_add_up(deeds in deeds(), cuts in proptest::collection::vec(0i64..200_000_000, 1..4)) {
        let history = lived(deeds);
        let mut ends: Vec<i64> = cuts.into_iter().map(|cut| 1_699_990_000_000 + cut).collect();
        ends.extend([i64::MIN, i64::MAX]);
        ends.sort_unstable();
        let sums = |from, to| {
            let mut totals = Totals::new(from, to, By::All);
            let mut audit = Audit::new(Head::none());
            for line in &history.lines {
                match line {
                    None => audit.file(),
                    Some(line) => audit.line(("", 0), line.as_bytes(), genuine, |entry, account| totals.add(entry, account)),
                }
            }
            totals.rows().first().map(|row| row.used).unwrap_or_default()
        };
        let mut added = Used::default();
        for pair in ends.windows(2) {
            let part = sums(pair[0], pair[1]);
            added.cpu_allotted += part.cpu_allotted;
            added.cpu_used += part.cpu_used;
            added.memory_resident += part.memory_resident;
            added.disk_allotted += part.disk_allotted;
            added.sent += part.sent;
        }
        let whole = sums(i64::MIN, i64::MAX);
        prop_assert_eq!(added.cpu_allotted, whole.cpu_allotted);
        prop_assert_eq!(added.cpu_used, whole.cpu_used);
        prop_assert_eq!(added.memory_resident, whole.memory_resident);
        prop_assert_eq!(added.disk_allotted, whole.disk_allotted);
        prop_assert_eq!(added.sent, whole.sent);
    }

    #[test]
    fn no_change_passes(deeds in deeds(), place in any::<prop::sample::Index>(), way in 0u8..4, byte in any::<prop::sample::Index>(), by in 1u8..0x80) {
        let mut deeds = deeds;
        // So that there are two lines to exchange.
        let one = [(1, Deed::Delete(3)), (1, Deed::Create(3)), (1, Deed::Delete(3)), (1, Deed::Write)];
        deeds.extend(one.iter().chain(&one).cloned());
        let history = lived(deeds);
        let written: Vec<usize> = (0..history.lines.len()).filter(|at| history.lines[*at].is_some()).collect();
        let at = written[place.index(written.len())];
        let mut lines = history.lines.clone();
        match way {
            0 => { lines.remove(at); }
            1 => { let line = lines[at].clone(); lines.insert(at, line); }
            2 => {
                let others: Vec<_> = written.iter().filter(|other| **other != at).collect();
                let other = *others[byte.index(others.len())];
                lines.swap(at, other);
            }
            _ => {
                let line = lines[at].take().unwrap();
                let mut bytes = line.into_bytes();
                let changed = byte.index(bytes.len());
                bytes[changed] = bytes[changed].wrapping_add(by) & 0x7f;
                let line = String::from_utf8(bytes).unwrap();
                lines[at] = Some(line);
            }
        }
        let (report, _) = history.audited(&lines);
        prop_assert!(report.found > 0);
    }
}
