//! The texts of /proc (proc(5)), without the reading of them.

use inn_guest_proto::wire::Pressure;

/// What all CPUs together did since boot, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ticks {
    pub(super) busy: u64,
    pub(super) all: u64,
}

impl Ticks {
    /// Of what was done since `before`: 0 to 1000.
    pub(super) fn permille_since(self, before: Ticks) -> u32 {
        // A counter may go back a little: idle and iowait are estimates.
        let all = self.all.saturating_sub(before.all);
        let busy = self.busy.saturating_sub(before.busy).min(all);
        (busy * 1000).checked_div(all).map_or(0, |share| u32::try_from(share).unwrap_or(1000))
    }
}

/// /proc/stat: the ticks, and how many CPUs there are.
pub(super) fn cpu(stat: &str) -> (Ticks, u32) {
    let mut ticks = Ticks::default();
    let mut cpus = 0;
    for line in stat.lines() {
        // The CPUs stand first.
        let Some(rest) = line.strip_prefix("cpu") else { break };
        if !rest.starts_with(' ') {
            cpus += 1;
            continue;
        }
        // user nice system idle iowait irq softirq steal; guest time, which
        // follows, is in user and nice already.
        for (at, word) in rest.split_ascii_whitespace().take(8).enumerate() {
            let value: u64 = word.parse().unwrap_or(0);
            ticks.all = ticks.all.saturating_add(value);
            if !matches!(at, 3 | 4) {
                ticks.busy = ticks.busy.saturating_add(value);
            }
        }
    }
    (ticks, cpus)
}

/// Bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total: u64,
    pub(super) available: u64,
    pub(super) free: u64,
    pub(super) swap_total: u64,
    pub(super) swap_free: u64,
}

/// /proc/meminfo.
pub(super) fn memory(meminfo: &str) -> Memory {
    let mut memory = Memory::default();
    for line in meminfo.lines() {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let place = match name {
            "MemTotal" => &mut memory.total,
            "MemAvailable" => &mut memory.available,
            "MemFree" => &mut memory.free,
            "SwapTotal" => &mut memory.swap_total,
            "SwapFree" => &mut memory.swap_free,
            _ => continue,
        };
        let kib = rest.split_ascii_whitespace().next().and_then(|word| word.parse().ok());
        *place = kib.unwrap_or(0_u64).saturating_mul(1024);
    }
    memory
}

/// /proc/loadavg: the first three numbers, in hundredths.
pub(super) fn load(loadavg: &str) -> Vec<u32> {
    loadavg.split_ascii_whitespace().take(3).map(hundredths).collect()
}

/// /proc/pressure/*: two lines, and only `some` on kernels that have no other
/// for the CPU.
pub(super) fn pressure(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (ten, sixty) = match words.next() {
            Some("some") => (&mut pressure.some_10, &mut pressure.some_60),
            Some("full") => (&mut pressure.full_10, &mut pressure.full_60),
            _ => continue,
        };
        for word in words {
            match word.split_once('=') {
                Some(("avg10", value)) => *ten = hundredths(value),
                Some(("avg60", value)) => *sixty = hundredths(value),
                _ => {}
            }
        }
    }
    pressure
}

/// `12.34` is 1234.
fn hundredths(text: &str) -> u32 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digit = |at: usize| part.as_bytes().get(at).map_or(0, |d| u32::from(d.wrapping_sub(b'0')));
    let whole: u32 = whole.parse().unwrap_or(0);
    whole.saturating_mul(100).saturating_add(digit(0).min(9) * 10 + digit(1).min(9))
}

/// os-release(5): what the system calls itself.
pub(super) fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?.trim();
    let quoted = |mark: char| value.strip_prefix(mark)?.strip_suffix(mark);
    let Some(inner) = quoted('"').or_else(|| quoted('\'')) else {
        return Some(value.to_owned());
    };
    // As in a shell, a backslash takes the next character for itself.
    let mut plain = String::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        plain.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "\
cpu  100 10 50 800 40 0 5 5 30 0
cpu0 50 5 25 400 20 0 5 0 15 0
cpu1 50 5 25 400 20 0 0 5 15 0
intr 12345 0 0
ctxt 99
";

    #[test]
    fn ticks_and_their_share() {
        let (ticks, cpus) = cpu(STAT);
        assert_eq!((ticks, cpus), (Ticks { busy: 170, all: 1010 }, 2));
        assert_eq!(ticks.permille_since(Ticks::default()), 168);
        assert_eq!(ticks.permille_since(ticks), 0);
        let back = Ticks { busy: 200, all: 1100 };
        assert_eq!(ticks.permille_since(back), 0);
        assert_eq!(Ticks { busy: 1190, all: 2010 }.permille_since(ticks), 1000);
        assert_eq!(cpu(""), (Ticks::default(), 0));
    }

    #[test]
    fn memory_in_bytes() {
        let text = "MemTotal:         121212 kB\nMemFree:           60000 kB\n\
                    MemAvailable:      90000 kB\nBuffers: 1 kB\nSwapTotal: 8 kB\nSwapFree: x kB\n";
        let found = memory(text);
        let wanted = Memory {
            total: 121_212 * 1024,
            available: 90_000 * 1024,
            free: 60_000 * 1024,
            swap_total: 8192,
            swap_free: 0,
        };
        assert_eq!(found, wanted);
    }

    #[test]
    fn load_in_hundredths() {
        assert_eq!(load("0.20 1.18 12.05 1/80 11206\n"), [20, 118, 1205]);
        assert_eq!(load(""), Vec::<u32>::new());
        assert_eq!(hundredths("7"), 700);
        assert_eq!(hundredths("x.y"), 90);
    }

    #[test]
    fn pressure_of_both_kinds() {
        let text = "some avg10=1.53 avg60=0.40 avg300=0.00 total=123\n\
                    full avg10=100.00 avg60=0.01 avg300=0.00 total=4\n";
        let wanted = Pressure { some_10: 153, some_60: 40, full_10: 10_000, full_60: 1 };
        assert_eq!(pressure(text), wanted);
        assert_eq!(pressure("nonsense"), Pressure::default());
    }

    #[test]
    fn names_of_systems() {
        let debian = "NAME=Debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n";
        assert_eq!(pretty_name(debian).unwrap(), "Debian GNU/Linux 12 (bookworm)");
        assert_eq!(pretty_name("PRETTY_NAME='My \"OS\"'\n").unwrap(), "My \"OS\"");
        assert_eq!(pretty_name("PRETTY_NAME=\"a\\\"b\"\n").unwrap(), "a\"b");
        assert_eq!(pretty_name("PRETTY_NAME=Plain\n").unwrap(), "Plain");
        assert_eq!(pretty_name("NAME=x\n"), None);
    }
}
