//! Files in and out. Everything here may block on a disk, so each request is a
//! job on a thread of its own, and a task that carries bytes between the job
//! and the stream, both ways with bounded queues.

mod content;
mod job;
mod meta;
mod tree;

use inn_guest_proto::wire::{
    Done, ListDir, MakeDir, ReadFile, ReadTree, Remove, Stat, WriteFile, WriteTree, end::Outcome,
};

use crate::stream::Stream;

pub(crate) fn read_file(stream: Stream, request: ReadFile) {
    job::send(stream, move |out| content::read(&request, out).map(Outcome::Transferred));
}

pub(crate) fn write_file(stream: Stream, request: WriteFile) {
    job::receive(stream, move |input| content::write(&request, input).map(Outcome::Transferred));
}

pub(crate) fn read_tree(stream: Stream, request: ReadTree) {
    job::send(stream, move |out| tree::read(&request.path, out).map(Outcome::Transferred));
}

pub(crate) fn write_tree(stream: Stream, request: WriteTree) {
    job::receive(stream, move |input| tree::write(&request.path, input).map(Outcome::Transferred));
}

pub(crate) fn stat(stream: Stream, request: Stat) {
    job::send(stream, move |_| meta::stat(&request.path, request.follow).map(Outcome::FileInfo));
}

pub(crate) fn list_dir(stream: Stream, request: ListDir) {
    job::send(stream, move |out| meta::list(&request.path, out).map(|()| done()));
}

pub(crate) fn make_dir(stream: Stream, request: MakeDir) {
    job::send(stream, move |_| meta::make_dir(&request).map(|()| done()));
}

pub(crate) fn remove(stream: Stream, request: Remove) {
    job::send(stream, move |_| meta::remove(&request.path, request.recursive).map(|()| done()));
}

fn done() -> Outcome {
    Outcome::Done(Done {})
}
