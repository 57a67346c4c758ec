//! Waits for cloud-init in a full VM, and keeps what has come of it.
//!
//! ```text
//!   waiting(stage) ──result.json──▶ done
//!        │  │          └─ with errors ──▶ failed
//!        │  └─ the guest has no cloud-init, or it is off ──▶ failed
//!        └─ its time is over, whether an agent answers or not ──▶ failed
//! ```
//!
//! The guest agent reads the files in which cloud-init tells how it is, as
//! anybody in the guest could: so any agent can be asked, one that an image
//! has brought along, too. Looked at once a second: nothing in a guest tells
//! of it, and a look is two small files.

use std::time::Duration;

use inn_cloud_init::{Progress, clean};
use inn_store::{CloudInitRecord, CloudInitState};
use inn_units::format_duration;
use inn_vmm::Machine;
use tokio::time::{Instant, sleep};

use super::super::failure::StepError;
use super::super::task::VmTask;
use super::{RECONNECT, StepOutcome};
use crate::error::Chain;
use crate::guest::{GuestError, GuestSession, Piece, ReadSpec, RefusedKind};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// For the answers to one look.
const ANSWER: Duration = Duration::from_secs(10);

const STATUS: &str = "/run/cloud-init/status.json";
/// There only once all stages of this boot are over.
const RESULT: &str = "/run/cloud-init/result.json";
/// Made by cloud-init's own generator.
const DISABLED: &str = "/run/cloud-init/disabled";
const OUTPUT: &str = "/var/log/cloud-init-output.log";
const PROGRAMS: [&str; 2] = ["/usr/bin/cloud-init", "/usr/local/bin/cloud-init"];

/// Of each file: a status has some hundred bytes.
const MOST: u64 = 64 << 10;

/// What is kept of the output, in bytes to read, lines, and characters each.
const TAIL: u64 = 4 << 10;
const LINES: usize = 15;
const LINE: usize = 200;

/// What one look has seen.
enum Seen {
    At(Option<String>),
    Over(CloudInitRecord),
}

impl VmTask {
    /// Whether its machine runs and cloud-init in it is still waited for.
    pub(in super::super) fn waits_for_cloud_init(&self) -> bool {
        self.shared.spec.cloud_init.is_some()
            && self.observed.machine.is_some_and(|machine| machine.full && !machine.set_up)
    }

    pub(in super::super) fn cloud_init_deadline(&self) -> Instant {
        self.launched_at + self.node.config.live().cloud_init_deadline
    }

    pub(super) async fn cloud_init(&mut self) -> Result<StepOutcome, StepError> {
        let deadline = self.cloud_init_deadline();
        loop {
            let (machine, session) = (self.machine()?, self.session()?);
            let seen = tokio::select! {
                // All three only look, or ask what can be asked again.
                seen = tokio::time::timeout(ANSWER, look(&session)) => seen,
                end = machine.wait() => return Err(StepError::Ended(end)),
                () = self.superseded() => return Err(StepError::Superseded),
            };
            match seen {
                Ok(Ok(Seen::Over(record))) => return Ok(self.set_up(record).await),
                Ok(Ok(Seen::At(stage))) => self.publish_cloud_init(waiting(stage)),
                // It reboots, most likely, or its agent is replaced.
                Ok(Err(error @ (GuestError::Closed { .. } | GuestError::Io { .. }))) => {
                    self.session_lost(&error).await;
                    return Err(StepError::Superseded);
                }
                Ok(Err(error)) => {
                    tracing::debug!(
                        vm = %self.shared.spec.name, error = %Chain(&error), "cloud-init's status"
                    );
                }
                // A busy guest; whether its session is over is told by itself.
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                let output = self.output(&session).await;
                return Ok(self.give_up_cloud_init(output).await);
            }
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                end = machine.wait() => return Err(StepError::Ended(end)),
                () = self.superseded() => return Err(StepError::Superseded),
            }
        }
    }

    /// Its time is over.
    pub(in super::super) async fn give_up_cloud_init(
        &mut self,
        output: Vec<String>,
    ) -> StepOutcome {
        let limit = format_duration(self.node.config.live().cloud_init_deadline);
        let known = self.shared.view.borrow().cloud_init.clone();
        let stage = known.as_ref().and_then(|record| record.stage.clone());
        let why = match &stage {
            Some(stage) => format!("it was not done within {limit}, and is at {stage}"),
            None => format!(
                "the guest agent told nothing of it within {limit}; whether the image has \
                 cloud-init its console shows"
            ),
        };
        let state = CloudInitState::Failed;
        self.set_up(CloudInitRecord { state, stage, errors: vec![why], output }).await
    }

    async fn set_up(&mut self, mut record: CloudInitRecord) -> StepOutcome {
        let name = &self.shared.spec.name;
        let failed = record.state == CloudInitState::Failed;
        if failed {
            if record.output.is_empty()
                && let Ok(session) = self.session()
            {
                record.output = self.output(&session).await;
            }
            tracing::warn!(vm = %name, errors = ?record.errors, "cloud-init has failed");
        } else {
            tracing::info!(vm = %name, "cloud-init is done");
        }
        self.publish_cloud_init(record);
        self.observed.was_set_up();
        // What comes has its own time, however long this took.
        self.boot_deadline = self.boot_deadline.max(Instant::now() + RECONNECT);
        self.persist().await;
        if failed { StepOutcome::Impaired } else { StepOutcome::Done }
    }

    pub(in super::super) fn publish_cloud_init(&self, record: CloudInitRecord) {
        let record = std::sync::Arc::new(record);
        self.shared.view.send_if_modified(|view| {
            let changed = view.cloud_init.as_ref() != Some(&record);
            if changed {
                view.cloud_init = Some(std::sync::Arc::clone(&record));
            }
            changed
        });
    }

    /// The last lines that it printed.
    async fn output(&self, session: &GuestSession) -> Vec<String> {
        let tail = async {
            let size = session.stat(OUTPUT, true).await.ok()?.size;
            let offset = size.saturating_sub(TAIL);
            read(session, OUTPUT, offset, TAIL).await.ok()
        };
        let tail = tokio::time::timeout(ANSWER, tail).await.ok().flatten().unwrap_or_default();
        let text = String::from_utf8_lossy(&tail);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let from = lines.len().saturating_sub(LINES);
        lines[from..].iter().map(|line| clean(line, LINE)).collect()
    }
}

pub(in super::super) fn waiting(stage: Option<String>) -> CloudInitRecord {
    let state = CloudInitState::Waiting;
    CloudInitRecord { state, stage, errors: Vec::new(), output: Vec::new() }
}

async fn look(session: &GuestSession) -> Result<Seen, GuestError> {
    let failed = |errors| {
        let (state, output) = (CloudInitState::Failed, Vec::new());
        Seen::Over(CloudInitRecord { state, stage: None, errors, output })
    };
    // In this order: what was over before is in the status, too.
    let result = read_some(session, RESULT).await?;
    let status = read_some(session, STATUS).await?;
    let progress = status.as_deref().and_then(Progress::read);
    if let Some(result) = result {
        let mut errors = progress.map(|progress| progress.errors).unwrap_or_default();
        if errors.is_empty() {
            errors = Progress::result_errors(&result);
        }
        if errors.is_empty() {
            return Ok(Seen::Over(CloudInitRecord {
                state: CloudInitState::Done,
                ..waiting(None)
            }));
        }
        return Ok(failed(errors));
    }
    if let Some(progress) = progress {
        return Ok(Seen::At(progress.stage));
    }
    if exists(session, DISABLED).await? {
        let why = "it is disabled in the image, or has found no seed there";
        return Ok(failed(vec![why.to_owned()]));
    }
    for program in PROGRAMS {
        if exists(session, program).await? {
            return Ok(Seen::At(None));
        }
    }
    Ok(failed(vec!["there is no cloud-init in the image".to_owned()]))
}

async fn exists(session: &GuestSession, path: &str) -> Result<bool, GuestError> {
    match session.stat(path, true).await {
        Ok(_) => Ok(true),
        Err(GuestError::Refused { kind: RefusedKind::NotFound, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn read_some(session: &GuestSession, path: &str) -> Result<Option<Vec<u8>>, GuestError> {
    match read(session, path, 0, MOST).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(GuestError::Refused { kind: RefusedKind::NotFound, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn read(
    session: &GuestSession,
    path: &str,
    offset: u64,
    most: u64,
) -> Result<Vec<u8>, GuestError> {
    let spec = ReadSpec { offset, limit: Some(most), ..ReadSpec::default() };
    let mut reader = session.read_file(path, spec).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next().await? {
        // There are no holes in what is read whole.
        let Piece::Data(data) = piece else { continue };
        bytes.extend_from_slice(&data);
        // The guest's word is no promise.
        if bytes.len() as u64 > most {
            bytes.truncate(usize::try_from(most).unwrap_or(usize::MAX));
            break;
        }
    }
    Ok(bytes)
}
