//! `inn vm files`: single files in a VM, looked at and changed.

use futures_util::StreamExt;
use inn_client::api::{
    FileAttributes, FileChange, FileChangeKind, FileInfo, FileKind, MakeDir, Rename, Symlink,
};
use inn_client::{Client, FileEvent};
use jiff::Timestamp;
use serde::Serialize;

use crate::args::{FilesCommand, GuestPath, SameVmPath};
use crate::context::{Context, complain, print};
use crate::failure::{Failure, harmless};
use crate::signals::Interrupts;
use crate::table::Table;
use crate::view::{age, bytes};

pub(crate) async fn files(context: &Context, command: &FilesCommand) -> Result<u8, Failure> {
    match command {
        FilesCommand::Ls { place } => list(context, place).await?,
        FilesCommand::Stat { follow, place } => stat(context, place, *follow).await?,
        FilesCommand::Mkdir { parents, mode, place } => {
            let make = MakeDir { path: place.path.clone(), mode: mode.clone(), parents: *parents };
            context.client().await?.make_dir(&place.vm, &make).await?;
            done(context, place)?;
        }
        FilesCommand::Rm { recursive, place } => {
            context.client().await?.remove_file(&place.vm, &place.path, *recursive).await?;
            done(context, place)?;
        }
        FilesCommand::Mv { replace, from, to } => rename(context, from, to, *replace).await?,
        FilesCommand::Ln { replace, target, place } => {
            let link =
                Symlink { path: place.path.clone(), target: target.clone(), replace: *replace };
            context.client().await?.symlink(&place.vm, &link).await?;
            done(context, place)?;
        }
        FilesCommand::Chmod { mode, uid, gid, place } => {
            let attributes = FileAttributes {
                path: place.path.clone(),
                mode: Some(mode.clone()),
                uid: *uid,
                gid: *gid,
                modified_at: None,
            };
            context.client().await?.set_file_attributes(&place.vm, &attributes).await?;
            done(context, place)?;
        }
        FilesCommand::Watch { recursive, place } => {
            return watch(context, place, *recursive).await;
        }
    }
    Ok(0)
}

/// What was changed, for `-o json`; people hear of failures alone, as with the
/// shell's own commands.
#[derive(Debug, Serialize)]
struct Done<'a> {
    vm: &'a str,
    path: &'a str,
}

fn done(context: &Context, place: &GuestPath) -> Result<(), Failure> {
    context.result(&Done { vm: &place.vm, path: &place.path }, String::new)
}

/// A directory's entries, or the one file itself.
async fn list(context: &Context, place: &GuestPath) -> Result<(), Failure> {
    let client = context.client().await?;
    let GuestPath { vm, path } = place;
    let info = client.file_info(vm, path, true).await?;
    let mut items = match info.kind {
        FileKind::Directory => client.list_files(vm, path).await?.items,
        _ => vec![info],
    };
    items.sort_by(|a, b| a.name.cmp(&b.name));
    context.result(&items, || table(&items, Timestamp::now()))
}

fn table(items: &[FileInfo], now: Timestamp) -> String {
    let mut table = Table::new(["MODE", "UID", "GID", "SIZE", "CHANGED", "NAME"]).right([1, 2, 3]);
    for item in items {
        table.push([
            mode(item),
            item.uid.to_string(),
            item.gid.to_string(),
            bytes(item.size_bytes),
            format!("{} ago", age(item.modified_at, now)),
            name(item),
        ]);
    }
    table.render()
}

/// `-rw-r--r--`, as ls(1) has it.
fn mode(item: &FileInfo) -> String {
    let kind = match item.kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Other => '?',
    };
    // The guest's word: what is no number has no bits.
    let bits = u32::from_str_radix(&item.mode, 8).unwrap_or(0);
    let letters = [(0o400, 'r'), (0o200, 'w'), (0o100, 'x')];
    let mut text = String::from(kind);
    for (shift, special, letter) in [(0, 0o4000, 's'), (3, 0o2000, 's'), (6, 0o1000, 't')] {
        for (bit, shown) in letters {
            let set = bits & (bit >> shift) != 0;
            let special = shown == 'x' && bits & special != 0;
            text.push(match (set, special) {
                (true, true) => letter,
                (false, true) => letter.to_ascii_uppercase(),
                (true, false) => shown,
                (false, false) => '-',
            });
        }
    }
    text
}

fn name(item: &FileInfo) -> String {
    match &item.target {
        Some(target) => harmless(&format!("{} -> {target}", item.name)),
        None => harmless(&item.name),
    }
}

async fn stat(context: &Context, place: &GuestPath, follow: bool) -> Result<(), Failure> {
    let client = context.client().await?;
    let info = client.file_info(&place.vm, &place.path, follow).await?;
    context.result(&info, || describe(&info, &place.path))
}

fn describe(info: &FileInfo, path: &str) -> String {
    let kind = match info.kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symbolic link",
        FileKind::Other => "device, pipe or socket",
    };
    let mut lines = vec![
        ("path", path.to_owned()),
        ("kind", kind.to_owned()),
        ("size", format!("{} ({} bytes)", bytes(info.size_bytes), info.size_bytes)),
        ("on disk", bytes(info.allocated_bytes)),
        ("mode", format!("{} ({})", info.mode, mode(info))),
        ("owner", format!("{}:{}", info.uid, info.gid)),
        ("changed", info.modified_at.to_string()),
    ];
    if let Some(target) = &info.target {
        lines.push(("leads to", target.clone()));
    }
    lines.push(("etag", info.etag.clone()));
    let line = |(key, value): (&str, String)| format!("{key:<9} {}\n", harmless(&value));
    lines.into_iter().map(line).collect()
}

async fn rename(
    context: &Context,
    from: &GuestPath,
    to: &SameVmPath,
    replace: bool,
) -> Result<(), Failure> {
    if let Some(vm) = to.vm.as_ref().filter(|vm| **vm != from.vm) {
        return Err(Failure::usage(format!(
            "{} and {vm} are two VMs; `inn vm cp` brings a file from one here, and to the other",
            from.vm
        )));
    }
    let rename = Rename { from: from.path.clone(), to: to.path.clone(), replace };
    context.client().await?.rename(&from.vm, &rename).await?;
    done(context, &GuestPath { vm: from.vm.clone(), path: to.path.clone() })
}

/// A line for each change, until somebody leaves or the VM does.
async fn watch(context: &Context, place: &GuestPath, recursive: bool) -> Result<u8, Failure> {
    let client: Client = context.client().await?;
    let mut interrupts = Interrupts::listen()?;
    let mut events = client.watch_files(&place.vm, &place.path, recursive).await?;
    loop {
        tokio::select! {
            // Cancel safe: what was not taken stays in the stream.
            event = events.next() => match event {
                Some(event) => match event? {
                    FileEvent::Change(change) if context.json() => {
                        let mut line = serde_json::to_string(&change)
                            .map_err(|e| Failure::because("cannot write a change as JSON", &e))?;
                        line.push('\n');
                        print(line.as_bytes())?;
                    }
                    FileEvent::Change(change) => print(change_line(&change).as_bytes())?,
                    FileEvent::Overflow => complain("some changes were lost: there were too many"),
                },
                None => return Err(Failure::new(format!(
                    "the watch of {}:{} ended with the guest's connection; `inn vm show {0}` \
                     says how it is",
                    place.vm, place.path
                ))),
            },
            // Cancel safe: a signal that came stays to be seen.
            interrupt = interrupts.next() => return Ok(interrupt.exit_code()),
        }
    }
}

fn change_line(change: &FileChange) -> String {
    let what = match change.kind {
        FileChangeKind::Created => "created",
        FileChangeKind::Modified => "modified",
        FileChangeKind::Removed => "removed",
        FileChangeKind::Renamed => "renamed",
        FileChangeKind::Attributes => "attributes",
        FileChangeKind::Other => "changed",
    };
    let slash = if change.directory { "/" } else { "" };
    let from = change.from.as_ref().map(|from| format!(" (from {from})")).unwrap_or_default();
    format!("{what:<10} {}\n", harmless(&format!("{}{slash}{from}", change.path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(kind: FileKind, mode: &str) -> FileInfo {
        FileInfo {
            name: "a\x1b[2J".into(),
            kind,
            size_bytes: 2048,
            allocated_bytes: 4096,
            mode: mode.into(),
            uid: 0,
            gid: 33,
            modified_at: Timestamp::UNIX_EPOCH,
            target: None,
            etag: "\"1\"".into(),
        }
    }

    #[test]
    fn modes_read_as_ls_has_them() {
        for (kind, bits, shown) in [
            (FileKind::File, "0644", "-rw-r--r--"),
            (FileKind::Directory, "1777", "drwxrwxrwt"),
            (FileKind::File, "4755", "-rwsr-xr-x"),
            (FileKind::File, "2640", "-rw-r-S---"),
            (FileKind::Symlink, "0777", "lrwxrwxrwx"),
            (FileKind::Other, "lots", "?---------"),
        ] {
            assert_eq!(mode(&info(kind, bits)), shown);
        }
    }

    #[test]
    fn a_list_has_nothing_that_takes_a_terminal_over() {
        let now = Timestamp::from_second(120).unwrap();
        let link = FileInfo { target: Some("b".into()), ..info(FileKind::Symlink, "0777") };
        assert_eq!(
            table(&[info(FileKind::File, "0644"), link], now),
            "MODE        UID  GID  SIZE  CHANGED  NAME\n\
             -rw-r--r--    0   33  2KiB  2m ago   a[2J\n\
             lrwxrwxrwx    0   33  2KiB  2m ago   a[2J -> b\n"
        );
    }

    #[test]
    fn a_change_is_one_line() {
        let change = FileChange {
            kind: FileChangeKind::Renamed,
            path: "/srv/b\n".into(),
            from: Some("/srv/a".into()),
            directory: true,
        };
        assert_eq!(change_line(&change), "renamed    /srv/b/ (from /srv/a)\n");
    }
}
