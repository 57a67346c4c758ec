//! Draws how a VM came up: one line for each phase, its bar where it stands in
//! the whole.
//!
//! ```text
//! last start      1.18 s, 3m ago
//!   prepare-disk         12 ms  |#                                           |
//!   launch              130 ms  |####                                        |
//!     kernel 1 ms, sockets 2 ms, spawn 30 ms, qmp 97 ms
//!   handshake           1.03 s  |     #######################################|
//!     over its budget of 1.00 s
//! ```

use std::fmt::Write;
use std::io::IsTerminal;

use inn_client::api::{Boot, BootPhase, PhaseResult};
use jiff::Timestamp;

use crate::failure::harmless;
use crate::view::age;
use crate::why::shown_ms;

/// With names, times and the frame in front a line is as wide as a terminal
/// of old at most; what a phase consists of gets a line of its own.
const BAR: usize = 44;

/// No line is longer.
const WIDTH: usize = 80;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    colour: bool,
}

impl Look {
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { colour: false };

    pub(crate) fn of_stdout() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: std::io::stdout().is_terminal() && !plain }
    }

    /// SGR 32, 33, 31: green, yellow, red.
    fn paint(self, text: &str, phase: &BootPhase) -> String {
        let colour = match phase.result {
            PhaseResult::Failed => 31,
            PhaseResult::GivenUp | PhaseResult::Unanswered => 33,
            PhaseResult::Open | PhaseResult::Done if phase.over_budget => 33,
            PhaseResult::Open | PhaseResult::Done => 32,
        };
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Writing to a String cannot fail.
pub(crate) fn draw(boot: &Boot, title: &str, now: Timestamp, look: Look) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{title:<15} {}, {} ago", shown_ms(boot.took_ms), age(boot.at, now));
    for phase in &boot.phases {
        let (before, long) = place(phase, boot.took_ms);
        let bar = look.paint(&"#".repeat(long), phase);
        let after = BAR - before - long;
        let _ = writeln!(
            text,
            "  {:<14} {:>11}  |{}{bar}{}|",
            harmless(&phase.name),
            shown_ms(phase.took_ms),
            " ".repeat(before),
            " ".repeat(after),
        );
        for note in notes(phase) {
            let _ = writeln!(text, "    {note}");
        }
    }
    text
}

/// Where the bar begins and how long it is: always there, never beyond.
fn place(phase: &BootPhase, whole: f64) -> (usize, usize) {
    let columns = |ms: f64| -> usize {
        let share = if whole > 0.0 { (ms / whole).clamp(0.0, 1.0) } else { 0.0 };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "from 0 to the bar's length"
        )]
        let columns = (share * BAR as f64).round() as usize;
        columns
    };
    let before = columns(phase.start_ms).min(BAR - 1);
    (before, columns(phase.took_ms).clamp(1, BAR - before))
}

fn notes(phase: &BootPhase) -> Vec<String> {
    let mut notes = Vec::new();
    let result = match phase.result {
        PhaseResult::Done => None,
        PhaseResult::Open => Some("at it now"),
        PhaseResult::Failed => Some("failed"),
        PhaseResult::GivenUp => Some("given up for another request"),
        PhaseResult::Unanswered => Some("nobody answered; it runs without a guest agent"),
    };
    let over =
        phase.over_budget.then(|| format!("over its budget of {}", shown_ms(phase.budget_ms)));
    let said: Vec<String> = result.map(str::to_owned).into_iter().chain(over).collect();
    if !said.is_empty() {
        notes.push(said.join(", "));
    }
    // Two parts or more say something that the phase's own time does not.
    let mut line = String::new();
    for part in phase.parts.iter().filter(|_| phase.parts.len() > 1) {
        let part = format!("{} {}", harmless(&part.name), shown_ms(part.took_ms));
        if !line.is_empty() && line.len() + 2 + part.len() > WIDTH - 4 {
            notes.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push_str(", ");
        }
        line.push_str(&part);
    }
    if !line.is_empty() {
        notes.push(line);
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use inn_client::api::BootPart;

    fn phase(name: &str, start: f64, took: f64, result: PhaseResult) -> BootPhase {
        BootPhase {
            name: name.into(),
            result,
            start_ms: start,
            took_ms: took,
            budget_ms: 1_000.0,
            over_budget: took > 1_000.0,
            parts: Vec::new(),
        }
    }

    #[test]
    fn a_chart_is_narrow_and_its_bars_stand_where_they_belong() {
        let at = Timestamp::from_second(1_000).unwrap();
        let now = Timestamp::from_second(1_200).unwrap();
        let mut launch = phase("launch", 12.0, 130.0, PhaseResult::Done);
        launch.parts = ["kernel", "sockets", "spawn", "qmp", "a-part-of-some-other-runtime"]
            .map(|name| BootPart { name: name.into(), took_ms: 26.0 })
            .to_vec();
        let boot = Boot {
            at,
            took_ms: 1_320.0,
            phases: vec![
                phase("prepare-disk", 0.0, 1.25, PhaseResult::Done),
                launch,
                phase("handshake", 142.0, 1_178.0, PhaseResult::Failed),
            ],
        };
        let text = draw(&boot, "last start", now, Look::PLAIN);
        assert_eq!(
            text,
            "\
last start      1.32 s, 3m ago
  prepare-disk        1.2 ms  |#                                           |
  launch              130 ms  |####                                        |
    kernel 26 ms, sockets 26 ms, spawn 26 ms, qmp 26 ms
    a-part-of-some-other-runtime 26 ms
  handshake           1.18 s  |     #######################################|
    failed, over its budget of 1.00 s
",
        );
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        let coloured = draw(&boot, "last start", now, Look { colour: true });
        assert!(coloured.contains("\x1b[31m###"), "{coloured}");
    }

    #[test]
    fn a_bar_never_leaves_its_frame() {
        for (start, took, whole) in
            [(0.0, 0.0, 0.0), (5.0, 10.0, 1.0), (1e12, 1e12, 3.0), (99.9, 0.1, 100.0)]
        {
            let (before, long) = place(&phase("x", start, took, PhaseResult::Open), whole);
            assert!(long >= 1 && before + long <= BAR, "{start} {took} {whole}: {before} {long}");
        }
    }
}
