use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, RANGE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use inn_api::{BLOCK_SUM, FileWritten};
use jiff::Timestamp;

use crate::query::Target;
use crate::transport::Body;
use crate::{ByteStream, Client, ClientError};

/// What of a file to read. The default is all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileRead {
    pub offset: u64,
    /// At least 1; to the end where none is given.
    pub length: Option<u64>,
    /// The [`etag`](inn_api::FileInfo::etag) that the file must still
    /// have.
    pub if_match: Option<String>,
}

/// How a file is written. The default replaces it whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileWrite {
    /// Permission bits; those of the file before, or 0644.
    pub mode: Option<u32>,
    /// Those of the file before, or root. Both or neither.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub modified_at: Option<Timestamp>,
    /// 16 hex digits of the caller's choice: has the guest keep what arrived
    /// when the connection breaks off.
    pub upload: Option<String>,
    /// Where the content begins: with an upload, what the guest has of it
    /// already ([`Client::upload_state`]); otherwise a place in the file,
    /// which is written into and not replaced.
    pub offset: u64,
    /// The length of the whole file, where it is known.
    pub length: Option<u64>,
}

/// A file on its way out of the guest.
pub struct FileDownload {
    during: String,
    body: Incoming,
    etag: Option<String>,
    length: Option<u64>,
    block_sum: Option<[u8; 8]>,
}

impl Client {
    /// The guest verifies what it reads, and the node what arrives there. A
    /// connection that breaks off is an error and no end.
    pub async fn read_file(
        &self,
        vm: &str,
        path: &str,
        read: &FileRead,
    ) -> Result<FileDownload, ClientError> {
        let target = Target::api(&["vms", vm, "files"]).with("path", path);
        let during = format!("GET {}", target.as_str());
        let mut headers = HeaderMap::new();
        // RFC 9110, 10.1.4: who takes trailers says so, for this connection.
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("TE"));
        let range = match (read.offset, read.length) {
            (0, None) => None,
            (from, None) => Some(format!("bytes={from}-")),
            (from, Some(length)) => {
                let last = from.saturating_add(length.saturating_sub(1));
                Some(format!("bytes={from}-{last}"))
            }
        };
        let is_part = range.is_some();
        for (name, value) in [(RANGE, range), (IF_MATCH, read.if_match.clone())] {
            if let Some(value) = value {
                headers.insert(name, header(&during, value)?);
            }
        }
        let patience = Some(Duration::ZERO);
        let response = self.send_with(Method::GET, &target, headers, None, patience).await?;
        if is_part && response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(ClientError::protocol(&during, "a whole file where a part was asked for"));
        }
        Ok(FileDownload::new(during, response))
    }

    /// A tar of what is at `path`; a directory's entries are relative to it.
    pub async fn read_tree(&self, vm: &str, path: &str) -> Result<ByteStream, ClientError> {
        let target = Target::api(&["vms", vm, "files"]).with("path", path).with("format", "tar");
        self.stream(&target).await
    }

    /// An error in `content` ends it; the guest then has no file or the old
    /// one, never half of the new. The answer's block sum is of the whole
    /// file, as the guest has it.
    pub async fn write_file(
        &self,
        vm: &str,
        path: &str,
        write: &FileWrite,
        content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<FileWritten, ClientError> {
        let mode = write.mode.map(|mode| format!("{:04o}", mode & 0o7777));
        let target = Target::api(&["vms", vm, "files"])
            .with("path", path)
            .with_some("mode", mode)
            .with_some("uid", write.uid)
            .with_some("gid", write.gid)
            .with_some("modified", write.modified_at)
            .with_some("upload", write.upload.as_ref())
            .with_some("offset", (write.offset > 0).then_some(write.offset));
        let mut headers = HeaderMap::new();
        if let Some(rest) = write.length.map(|length| length.saturating_sub(write.offset)) {
            headers.insert(CONTENT_LENGTH, rest.into());
        }
        self.put("application/octet-stream", &target, headers, content).await
    }

    /// Extracts a tar into the directory `path`, which is made if missing.
    pub async fn write_tree(
        &self,
        vm: &str,
        path: &str,
        content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<FileWritten, ClientError> {
        let target = Target::api(&["vms", vm, "files"]).with("path", path).with("format", "tar");
        self.put("application/x-tar", &target, HeaderMap::new(), content).await
    }

    async fn put(
        &self,
        media_type: &'static str,
        target: &Target,
        headers: HeaderMap,
        content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<FileWritten, ClientError> {
        let frames = content.map(|part| part.map(Frame::data).map_err(Into::into));
        let body: Body = BodyExt::boxed_unsync(StreamBody::new(frames));
        let body = Some((media_type, body));
        let response = self.send_with(Method::PUT, target, headers, body, None).await?;
        self.json(&format!("PUT {}", target.as_str()), response).await
    }
}

impl FileDownload {
    fn new(during: String, response: Response<Incoming>) -> Self {
        let text = |name: HeaderName| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let length = match text(CONTENT_RANGE) {
            Some(range) => range_length(&range),
            None => text(CONTENT_LENGTH).and_then(|length| length.parse().ok()),
        };
        let etag = text(ETAG);
        Self { during, body: response.into_body(), etag, length, block_sum: None }
    }

    /// Names the content: see [`inn_api::FileInfo::etag`].
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// How many bytes come, where the agent tells.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next bytes; none once all have come. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Bytes, ClientError>> {
        loop {
            let frame = match self.body.frame().await? {
                Ok(frame) => frame,
                Err(e) => return Some(Err(ClientError::broken(&self.during, e))),
            };
            match frame.into_data() {
                Ok(data) => return Some(Ok(data)),
                Err(frame) => self.take_sum(&frame),
            }
        }
    }

    /// Of all that came, once that has ended: to be compared with a block sum
    /// over what was written. None from a guest that knows none.
    pub fn block_sum(&self) -> Option<[u8; 8]> {
        self.block_sum
    }

    fn take_sum(&mut self, frame: &Frame<Bytes>) {
        let sum = frame.trailers_ref().and_then(|trailers| trailers.get(BLOCK_SUM));
        self.block_sum = sum.and_then(|sum| from_hex(sum.as_bytes()));
    }
}

impl fmt::Debug for FileDownload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileDownload").field("length", &self.length).finish_non_exhaustive()
    }
}

fn header(during: &str, value: String) -> Result<HeaderValue, ClientError> {
    HeaderValue::try_from(value).map_err(|e| ClientError::protocol(during, e.to_string()))
}

/// Of `bytes 5-9/20`: 5.
fn range_length(range: &str) -> Option<u64> {
    let (first, last) = range.strip_prefix("bytes ")?.split_once('/')?.0.split_once('-')?;
    last.parse::<u64>().ok()?.checked_sub(first.parse().ok()?)?.checked_add(1)
}

fn from_hex(text: &[u8]) -> Option<[u8; 8]> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == 16)?;
    u64::from_str_radix(text, 16).ok().map(u64::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_sums_are_read_or_left_out() {
        assert_eq!(range_length("bytes 5-9/20"), Some(5));
        assert_eq!(range_length("bytes 5-9/*"), Some(5));
        assert_eq!(range_length("bytes */20"), None);
        assert_eq!(range_length("bytes 9-5/20"), None);
        assert_eq!(from_hex(b"00000000000000ab"), Some([0, 0, 0, 0, 0, 0, 0, 0xab]));
        assert_eq!(from_hex(b"ab"), None);
        assert_eq!(from_hex(b"zz000000000000ab"), None);
    }
}
