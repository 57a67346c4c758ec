use std::fmt;
use std::io;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use crate::query::Target;
use crate::{ByteStream, Client, ClientError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// One file's bytes.
    Raw,
    /// A tar of a whole tree, its entries relative to the path asked for.
    Tar,
}

impl fmt::Display for FileFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Tar => "tar",
        })
    }
}

/// Where in the guest the bytes go, and what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileWrite<'a> {
    /// Absolute. With a tar, the directory that it is unpacked into.
    pub path: &'a str,
    pub format: FileFormat,
    /// Permission bits of a raw file; the guest's default otherwise.
    pub mode: Option<u32>,
}

impl Client {
    pub async fn read_file(
        &self,
        vm: &str,
        path: &str,
        format: FileFormat,
    ) -> Result<ByteStream, ClientError> {
        let target = Target::api(&["vms", vm, "files"]).with("path", path).with("format", format);
        self.stream(&target).await
    }

    /// An error in `content` ends the upload; the guest then has no file or
    /// the old one, never half of the new.
    pub async fn write_file(
        &self,
        vm: &str,
        write: FileWrite<'_>,
        content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), ClientError> {
        let mode = write.mode.map(|mode| format!("{:04o}", mode & 0o7777));
        let target = Target::api(&["vms", vm, "files"])
            .with("path", write.path)
            .with("format", write.format)
            .with_some("mode", mode);
        let frames = content.map(|part| part.map(Frame::data).map_err(Into::into));
        let body = BodyExt::boxed_unsync(StreamBody::new(frames));
        let media_type = match write.format {
            FileFormat::Raw => "application/octet-stream",
            FileFormat::Tar => "application/x-tar",
        };
        self.send(Method::PUT, &target, Some((media_type, body)), None).await.map(drop)
    }
}
