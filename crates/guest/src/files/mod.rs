//! Files in and out. Everything here may block on a disk, so each request is a
//! job on a thread of its own, and a task that carries bytes between the job
//! and the stream, both ways with bounded queues. Only a watch, which has
//! nothing to do most of the time, is a task alone.

mod job;
mod meta;
mod read;
mod tree;
mod upload;
mod watch;
mod write;

use inn_guest_proto::wire::{
    Done, DropUpload, GetUpload, ListDir, MakeDir, ReadFile, ReadTree, Remove, Rename,
    SetAttributes, Stat, Symlink, WatchFiles, WriteFile, WriteTree, end::Outcome,
};

use crate::refusal::Refusal;
use crate::stream::Stream;

pub(crate) fn read_file(stream: Stream, request: ReadFile) {
    job::send(stream, move |out| read::read(&request, out).map(Outcome::Transferred));
}

pub(crate) fn write_file(stream: Stream, request: WriteFile) {
    let job = move |input: &mut job::In| write::write(&request, input).map(Outcome::Transferred);
    job::receive(stream, job, upload::watch_kept);
}

pub(crate) fn read_tree(stream: Stream, request: ReadTree) {
    job::send(stream, move |out| tree::read(&request.path, out).map(Outcome::Transferred));
}

pub(crate) fn write_tree(stream: Stream, request: WriteTree) {
    let job =
        move |input: &mut job::In| tree::write(&request.path, input).map(Outcome::Transferred);
    job::receive(stream, job, || {});
}

pub(crate) fn stat(stream: Stream, request: Stat) {
    job::ask(stream, move || meta::stat(&request.path, request.follow).map(Outcome::FileInfo));
}

pub(crate) fn list_dir(stream: Stream, request: ListDir) {
    job::send(stream, move |out| done(meta::list(&request.path, out)));
}

pub(crate) fn make_dir(stream: Stream, request: MakeDir) {
    job::ask(stream, move || done(meta::make_dir(&request)));
}

pub(crate) fn remove(stream: Stream, request: Remove) {
    job::ask(stream, move || done(meta::remove(&request.path, request.recursive)));
}

pub(crate) fn rename(stream: Stream, request: Rename) {
    job::ask(stream, move || done(meta::rename(&request)));
}

pub(crate) fn symlink(stream: Stream, request: Symlink) {
    job::ask(stream, move || done(meta::symlink(&request)));
}

pub(crate) fn set_attributes(stream: Stream, request: SetAttributes) {
    job::ask(stream, move || done(meta::set_attributes(&request)));
}

/// Tells what changes until the host cancels.
pub(crate) fn watch_files(stream: Stream, request: WatchFiles) {
    watch::start(stream, request);
}

pub(crate) fn get_upload(stream: Stream, request: GetUpload) {
    job::ask(stream, move || {
        upload::state(&request.path, &request.upload).map(Outcome::UploadState)
    });
    upload::watch_kept();
}

pub(crate) fn drop_upload(stream: Stream, request: DropUpload) {
    let over = stream.over();
    job::ask(stream, move || done(upload::drop_part(&request.path, &request.upload, &over)));
}

fn done(result: Result<(), Refusal>) -> Result<Outcome, Refusal> {
    result.map(|()| Outcome::Done(Done {}))
}
