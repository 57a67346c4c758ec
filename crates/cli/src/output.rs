//! Where the output of commands in VMs goes: as it comes for one VM, line by
//! line under labels for several, into memory for `-o json`.

use std::io::{self, IsTerminal};

use tokio::io::{AsyncWriteExt, Stderr, Stdout};

/// A line longer than this is cut in two: a guest that never ends its line
/// must not fill our memory.
const LONGEST_LINE: usize = 64 << 10;

/// What `-o json` keeps of each of the two outputs.
const CAPTURE_LIMIT: usize = 16 << 20;

#[derive(Debug)]
pub(crate) struct Sink {
    stdout: Stdout,
    stderr: Stderr,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Direct,
    Labelled { out: Lines, err: Lines },
    Captured(Captured),
}

/// Output that was kept, at most [`CAPTURE_LIMIT`] of each.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Captured {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub truncated: bool,
}

impl Sink {
    pub(crate) fn direct() -> Self {
        Self::of(Form::Direct)
    }

    pub(crate) fn captured() -> Self {
        Self::of(Form::Captured(Captured::default()))
    }

    /// `index` is the VM's place among all, which picks its colour.
    pub(crate) fn labelled(name: &str, width: usize, index: usize) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let label = |terminal: bool| {
            let colour = (terminal && !plain).then_some(index);
            Lines::new(label(name, width, colour))
        };
        let (out, err) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self::of(Form::Labelled { out: label(out), err: label(err) })
    }

    fn of(form: Form) -> Self {
        Self { stdout: tokio::io::stdout(), stderr: tokio::io::stderr(), form }
    }

    pub(crate) async fn stdout(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.form {
            Form::Direct => write_out(&mut self.stdout, data).await,
            Form::Labelled { out, .. } => write_out(&mut self.stdout, &out.push(data)).await,
            Form::Captured(kept) => {
                kept.truncated |= keep(&mut kept.stdout, data);
                Ok(())
            }
        }
    }

    pub(crate) async fn stderr(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.form {
            Form::Direct => write_out(&mut self.stderr, data).await,
            Form::Labelled { err, .. } => write_out(&mut self.stderr, &err.push(data)).await,
            Form::Captured(kept) => {
                kept.truncated |= keep(&mut kept.stderr, data);
                Ok(())
            }
        }
    }

    /// Writes what still waits for the end of its line.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        if let Form::Labelled { out, err } = &mut self.form {
            write_out(&mut self.stdout, &out.rest()).await?;
            write_out(&mut self.stderr, &err.rest()).await?;
        }
        Ok(())
    }

    pub(crate) fn into_captured(self) -> Captured {
        match self.form {
            Form::Captured(kept) => kept,
            _ => Captured::default(),
        }
    }
}

async fn write_out(to: &mut (impl AsyncWriteExt + Unpin), data: &[u8]) -> io::Result<()> {
    if data.is_empty() {
        return Ok(());
    }
    to.write_all(data).await?;
    to.flush().await
}

/// Whether something had to be left out.
fn keep(kept: &mut Vec<u8>, data: &[u8]) -> bool {
    let room = CAPTURE_LIMIT - kept.len();
    kept.extend_from_slice(&data[..data.len().min(room)]);
    data.len() > room
}

/// `web-1 | `, padded so that the bars of all VMs stand in one column.
fn label(name: &str, width: usize, colour: Option<usize>) -> String {
    /// SGR 36, 33, 32, 35, 34, 31: red, which looks like failure, last.
    const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];
    match colour {
        Some(index) => format!("\x1b[{}m{name:<width$} |\x1b[0m ", COLOURS[index % COLOURS.len()]),
        None => format!("{name:<width$} | "),
    }
}

/// Puts a label in front of every line of a stream.
#[derive(Debug)]
struct Lines {
    label: String,
    pending: Vec<u8>,
}

impl Lines {
    fn new(label: String) -> Self {
        Self { label, pending: Vec::new() }
    }

    /// The whole lines that `data` completes.
    fn push(&mut self, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            let mut part = part;
            while self.pending.len() + part.len() > LONGEST_LINE {
                let (head, tail) = part.split_at(LONGEST_LINE - self.pending.len());
                self.pending.extend_from_slice(head);
                self.take_line(&mut out);
                part = tail;
            }
            self.pending.extend_from_slice(part);
            if self.pending.ends_with(b"\n") {
                self.take_line(&mut out);
            }
        }
        out
    }

    fn rest(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.pending.is_empty() {
            self.take_line(&mut out);
        }
        out
    }

    fn take_line(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.label.as_bytes());
        out.append(&mut self.pending);
        if !out.ends_with(b"\n") {
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn labels_stand_in_one_column() {
        assert_eq!(label("db", 5, None), "db    | ");
        assert_eq!(label("web-1", 5, None), "web-1 | ");
        assert_eq!(label("db", 2, Some(7)), "\x1b[33mdb |\x1b[0m ");
    }

    #[test]
    fn a_line_is_written_once_it_is_whole() {
        let mut lines = Lines::new("a | ".into());
        assert_eq!(text(lines.push(b"one\ntw")), "a | one\n");
        assert_eq!(text(lines.push(b"o\n\nthree")), "a | two\na | \n");
        assert_eq!(text(lines.rest()), "a | three\n");
        assert_eq!(text(lines.rest()), "");
    }

    #[test]
    fn a_line_without_end_is_cut_and_nothing_is_lost() {
        let mut lines = Lines::new("> ".into());
        let mut seen = Vec::new();
        let flood = vec![b'x'; 3 * LONGEST_LINE + 17];
        for part in flood.chunks(1000) {
            seen.extend(lines.push(part));
            assert!(lines.pending.len() <= LONGEST_LINE);
        }
        seen.extend(lines.rest());
        let kept = seen.iter().filter(|byte| **byte == b'x').count();
        assert_eq!(kept, flood.len());
    }

    #[tokio::test]
    async fn capture_stops_at_its_limit() {
        let mut sink = Sink::captured();
        let part = vec![b'y'; CAPTURE_LIMIT - 1];
        sink.stdout(&part).await.unwrap();
        sink.stderr(b"few").await.unwrap();
        sink.stdout(b"zzz").await.unwrap();
        let kept = sink.into_captured();
        assert_eq!((kept.stdout.len(), kept.stdout.last()), (CAPTURE_LIMIT, Some(&b'z')));
        assert_eq!(kept.stderr, b"few");
        assert!(kept.truncated);
    }
}
