//! What a guest tells: messages whose every field is somebody's choice.

use arbitrary::{Result, Unstructured};
use inn_guest_proto::wire::{
    self, DirEntry, DirPage, DiskGrown, ExecEnd, ExecList, ExecNote, ExecStarted, ExecSummary,
    FileChange, FileChanges, FileInfo, Frozen, Interface, MountUse, NetworkApplied, Pressure,
    SshKeys, Telemetry, Transferred, UploadState, end, exec_end, exec_note,
};

/// The bytes of one message as they travel inside data.
pub(crate) fn inside_data(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    use prost::Message;
    Ok(match u.int_in_range(0..=4u8)? {
        0 => telemetry(u)?.encode_to_vec(),
        1 => {
            let entries =
                few(u, |u| Ok(DirEntry { name: u.arbitrary()?, info: Some(file_info(u)?) }))?;
            DirPage { entries }.encode_to_vec()
        }
        2 => {
            let changes = few(u, |u| {
                Ok(FileChange {
                    kind: u.arbitrary()?,
                    path: u.arbitrary()?,
                    from: u.arbitrary()?,
                    directory: u.arbitrary()?,
                })
            })?;
            FileChanges { changes, overflow: u.arbitrary()? }.encode_to_vec()
        }
        3 => {
            let kind = if u.arbitrary()? {
                exec_note::Kind::RunEnded(exec_end(u)?)
            } else {
                exec_note::Kind::RunStarted(ExecStarted {
                    pid: u.arbitrary()?,
                    ..ExecStarted::default()
                })
            };
            let (restarts, next_in_ms) = (u.arbitrary()?, u.arbitrary()?);
            ExecNote { kind: Some(kind), restarts, next_in_ms }.encode_to_vec()
        }
        _ => u.arbitrary()?,
    })
}

pub(crate) fn outcome(u: &mut Unstructured<'_>) -> Result<end::Outcome> {
    Ok(match u.int_in_range(0..=9u8)? {
        0 => end::Outcome::Telemetry(telemetry(u)?),
        1 => end::Outcome::ExecEnd(exec_end(u)?),
        2 => end::Outcome::ExecList(ExecList { execs: few(u, exec_summary)? }),
        3 => end::Outcome::FileInfo(file_info(u)?),
        4 => end::Outcome::SshKeys(SshKeys { keys: u.arbitrary()? }),
        5 => end::Outcome::Frozen(Frozen { mounts: u.arbitrary()?, expired: u.arbitrary()? }),
        6 => end::Outcome::DiskGrown(DiskGrown {
            device: u.arbitrary()?,
            before: u.arbitrary()?,
            after: u.arbitrary()?,
        }),
        7 => end::Outcome::NetworkApplied(NetworkApplied {
            by: u.arbitrary()?,
            problems: u.arbitrary()?,
        }),
        8 => end::Outcome::UploadState(UploadState { offset: u.arbitrary()? }),
        _ => {
            let sum: [u8; 8] = u.arbitrary()?;
            end::Outcome::Transferred(Transferred {
                bytes: u.arbitrary()?,
                block_sum: sum.to_vec().into(),
                length: u.arbitrary()?,
                ..Transferred::default()
            })
        }
    })
}

fn few<T>(
    u: &mut Unstructured<'_>,
    mut one: impl FnMut(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..u.int_in_range(0..=3u8)?).map(|_| one(u)).collect()
}

pub(crate) fn exec_end(u: &mut Unstructured<'_>) -> Result<ExecEnd> {
    let status = if u.arbitrary()? {
        exec_end::Status::Code(u.arbitrary()?)
    } else {
        exec_end::Status::Signal(u.arbitrary()?)
    };
    Ok(ExecEnd { status: Some(status), took_ns: u.arbitrary()?, ..ExecEnd::default() })
}

fn exec_summary(u: &mut Unstructured<'_>) -> Result<ExecSummary> {
    let id: [u8; 8] = u.arbitrary()?;
    Ok(ExecSummary {
        id: id.to_vec().into(),
        argv: u.arbitrary()?,
        output_start: u.arbitrary()?,
        output_end: u.arbitrary()?,
        ended: Some(exec_end(u)?),
        started_unix_ms: u.arbitrary()?,
        user: u.arbitrary()?,
        ..ExecSummary::default()
    })
}

pub(crate) fn file_info(u: &mut Unstructured<'_>) -> Result<FileInfo> {
    Ok(FileInfo {
        kind: u.arbitrary()?,
        size: u.arbitrary()?,
        mode: u.arbitrary()?,
        mtime_s: u.arbitrary()?,
        mtime_ns: u.arbitrary()?,
        target: u.arbitrary()?,
        ..FileInfo::default()
    })
}

fn telemetry(u: &mut Unstructured<'_>) -> Result<Telemetry> {
    let mounts = few(u, |u| {
        Ok(MountUse {
            target: u.arbitrary()?,
            total: u.arbitrary()?,
            used: u.arbitrary()?,
            ..MountUse::default()
        })
    })?;
    let interfaces = few(u, |u| {
        let address =
            wire::Address { ip: u.arbitrary::<Vec<u8>>()?.into(), prefix: u.arbitrary()? };
        Ok(Interface {
            name: u.arbitrary()?,
            mac: u.arbitrary::<Vec<u8>>()?.into(),
            addresses: vec![address],
            ..Interface::default()
        })
    })?;
    let pressure = Pressure { some_10: u.arbitrary()?, ..Pressure::default() };
    Ok(Telemetry {
        unix_ms: u.arbitrary()?,
        uptime_ms: u.arbitrary()?,
        cpu_permille: u.arbitrary()?,
        memory_total: u.arbitrary()?,
        memory_available: u.arbitrary()?,
        swap_used: u.arbitrary()?,
        load: u.arbitrary()?,
        os: u.arbitrary()?,
        cpu_pressure: Some(pressure),
        mounts,
        interfaces,
        ..Telemetry::default()
    })
}
