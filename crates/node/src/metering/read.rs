//! The ledger, added up or checked.

use std::path::Path;
use std::sync::PoisonError;

use inn_api::{UsageCheck, UsageFinding, UsageHead};
use inn_meter::{Audit, By, Finding, Head, Report, Row, Totals};

use super::files::{ledger_files, lines};
use super::ranges::{Range, Stamp};
use super::{Metering, is_genuine};

#[derive(Debug, thiserror::Error)]
#[error("the ledger of usage cannot be read")]
pub struct LedgerError(#[from] std::io::Error);

/// What a ledger is found to be.
#[derive(Debug)]
pub struct Checked {
    pub report: Report,
    /// The last block, for whoever keeps it elsewhere.
    pub head: Head,
}

impl Checked {
    /// As the API says it. `public_key` is what it was held against.
    pub fn told(self, public_key: String) -> UsageCheck {
        let Self { report, head } = self;
        let finding = |Finding { file, line, what }| UsageFinding { file, line, what };
        UsageCheck {
            ok: report.found == 0,
            blocks: report.blocks,
            entries: report.entries,
            vms: report.vms,
            found: report.found,
            findings: report.findings.into_iter().map(finding).collect(),
            head: UsageHead { block: head.block, hash: head.hash },
            public_key,
        }
    }
}

impl Metering {
    /// From and to in milliseconds since 1970. With what is not in the ledger
    /// yet. Files that are known to be about another time are not read. Blocks.
    pub(crate) fn totals(&self, from: i64, to: i64, by: By) -> Result<Vec<Row>, LedgerError> {
        let mut ranges = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let (unsent, unwritten) = {
            let inner = self.lock();
            (inner.unsent.clone(), inner.meter.unwritten(super::now()))
        };
        let mut totals = Totals::new(from, to, by);
        let mut audit = Audit::new(Head::none());
        let mut last = 0;
        // It may say what accounts of lines are that are not in it yet.
        let goes_on = unsent.first().map(|(number, _)| *number);
        for (number, path) in ledger_files(&self.directory)? {
            // Before it is read: what comes to it meanwhile makes it another.
            let stamp = Stamp::of(&std::fs::metadata(&path)?);
            if ranges.rules_out(number, stamp, (from, to)) && goes_on != Some(number) {
                continue;
            }
            audit.file();
            last = number;
            let mut range = Range::default();
            for line in lines(&std::fs::read(path)?) {
                // Whether all is right with it is asked for elsewhere.
                audit.line(
                    ("", 0),
                    line,
                    |_, _, _| Ok(()),
                    |entry, account| {
                        range.add(entry);
                        totals.add(entry, account);
                    },
                );
            }
            ranges.learn(number, stamp, range);
        }
        for (number, line) in unsent {
            if number != last {
                audit.file();
                last = number;
            }
            let line = line.as_bytes();
            audit.line(
                ("", 0),
                line,
                |_, _, _| Ok(()),
                |entry, account| totals.add(entry, account),
            );
        }
        for (entry, account) in &unwritten {
            totals.add(entry, account);
        }
        Ok(totals.rows())
    }

    /// Against what this agent knows to have written. Blocks.
    pub(crate) fn verify(&self, key: &str, known: Option<Head>) -> Result<Checked, LedgerError> {
        let _files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = {
            let inner = self.lock();
            // Lines that a full disk holds up are missing in no one's ledger.
            inner.unsent.is_empty().then(|| inner.meter.head().clone())
        };
        verify(&self.directory, key, expected.into_iter().chain(known))
    }
}

/// Reads a ledger in `directory` from its first block to its last. `key` is the
/// node's public key, in hex; `known` are blocks that somebody keeps elsewhere.
/// Blocks.
pub fn verify(
    directory: &Path,
    key: &str,
    known: impl IntoIterator<Item = Head>,
) -> Result<Checked, LedgerError> {
    let mut audit = Audit::new(Head::none());
    for head in known {
        audit.expect(head);
    }
    for (_, path) in ledger_files(directory)? {
        audit.file();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for (number, line) in (1..).zip(lines(&std::fs::read(&path)?)) {
            let genuine = |signed_by: &str, message: &[u8], signature: &[u8]| {
                is_genuine(key, signed_by, message, signature)
            };
            audit.line((&name, number), line, genuine, |_, _| ());
        }
    }
    let head = audit.standing().head;
    Ok(Checked { report: audit.finish(), head })
}
