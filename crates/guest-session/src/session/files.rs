use inn_guest_proto::capability;
use inn_guest_proto::wire::{self, end, request};

use super::{GuestSession, unexpected};
use crate::files::Content;
use crate::link::StreamEvent;
use crate::{
    DirEntry, FileAttributes, FileInfo, FileReader, FileWatch, FileWriter, GuestError, ReadSpec,
    UploadId, WriteSpec, convert,
};

impl GuestSession {
    /// Returns once the guest has opened the file.
    pub async fn read_file(&self, path: &str, spec: ReadSpec) -> Result<FileReader, GuestError> {
        if spec.sparse || spec.expect.is_some() {
            self.needs(capability::FILES_2, "leave out holes or expect a version of a file")?;
        }
        let request = convert::read_file(path, &spec);
        let (reader, _) = self.open(request::Kind::ReadFile(request)).await?;
        let content = match spec.sparse {
            true => Content::SparsePart { offset: spec.offset, limit: spec.limit },
            false => Content::Plain,
        };
        FileReader::begin(path, reader, &content).await
    }

    /// Of an upload it returns once the guest has said where the data begin;
    /// otherwise at once.
    pub async fn write_file(&self, path: &str, spec: WriteSpec) -> Result<FileWriter, GuestError> {
        if spec.sparse || spec.upload.is_some() || spec.modified.is_some() {
            let what = "leave holes, go on with an upload or set the time of a file";
            self.needs(capability::FILES_2, what)?;
        }
        let request = convert::write_file(path, &spec, self.hello().can(capability::FILES_2));
        let content = match (spec.upload, spec.sparse) {
            (Some(_), _) => Content::Upload { length: spec.length },
            (None, true) => Content::SparsePart { offset: 0, limit: None },
            (None, false) => Content::Plain,
        };
        let (reader, writer) = self.open(request::Kind::WriteFile(request)).await?;
        FileWriter::begin(path, reader, writer, &content).await
    }

    /// How much the guest has kept of an upload that broke off; 0 for nothing.
    pub async fn upload_state(&self, path: &str, id: UploadId) -> Result<u64, GuestError> {
        self.needs(capability::FILES_2, "go on with an upload")?;
        let upload = convert::upload_id(id);
        let request = wire::GetUpload { path: path.to_owned(), upload };
        match self.ask(request::Kind::GetUpload(request)).await? {
            end::Outcome::UploadState(state) => convert::upload_offset(state, None),
            other => Err(unexpected(&other)),
        }
    }

    /// Throws away what the guest has kept of an upload.
    pub async fn drop_upload(&self, path: &str, id: UploadId) -> Result<(), GuestError> {
        self.needs(capability::FILES_2, "go on with an upload")?;
        let upload = convert::upload_id(id);
        let request = wire::DropUpload { path: path.to_owned(), upload };
        self.done(request::Kind::DropUpload(request)).await
    }

    /// A tar of what is at `path`: of a directory the entries are relative to
    /// it, of anything else there is one entry.
    pub async fn read_tree(&self, path: &str) -> Result<FileReader, GuestError> {
        let request = wire::ReadTree { path: path.to_owned() };
        let (reader, _) = self.open(request::Kind::ReadTree(request)).await?;
        FileReader::begin(path, reader, &Content::Tree).await
    }

    /// Extracts a tar into the directory `path`, which is made if missing.
    pub async fn write_tree(&self, path: &str) -> Result<FileWriter, GuestError> {
        let request = wire::WriteTree { path: path.to_owned() };
        let (reader, writer) = self.open(request::Kind::WriteTree(request)).await?;
        FileWriter::begin(path, reader, writer, &Content::Tree).await
    }

    pub async fn stat(&self, path: &str, follow: bool) -> Result<FileInfo, GuestError> {
        let request = wire::Stat { path: path.to_owned(), follow };
        match self.ask(request::Kind::Stat(request)).await? {
            end::Outcome::FileInfo(info) => Ok(convert::file_info(info)),
            other => Err(unexpected(&other)),
        }
    }

    /// At most [`MAX_LISTED`](crate::MAX_LISTED) entries: more are an
    /// error.
    pub async fn list(&self, path: &str) -> Result<Vec<DirEntry>, GuestError> {
        let request = wire::ListDir { path: path.to_owned() };
        let (mut reader, _) = self.open(request::Kind::ListDir(request)).await?;
        let mut listing = convert::Listing::default();
        loop {
            match reader.next().await? {
                StreamEvent::Data(data) => listing.extend(data.bytes, path)?,
                StreamEvent::End(end) => {
                    return match convert::outcome(end)? {
                        end::Outcome::Done(_) => Ok(listing.entries),
                        other => Err(unexpected(&other)),
                    };
                }
                StreamEvent::Reply(_) | StreamEvent::Failed(_) => {}
            }
        }
    }

    pub async fn make_dir(&self, path: &str, mode: u32, parents: bool) -> Result<(), GuestError> {
        let request = wire::MakeDir { path: path.to_owned(), mode, parents };
        self.done(request::Kind::MakeDir(request)).await
    }

    pub async fn remove(&self, path: &str, recursive: bool) -> Result<(), GuestError> {
        let request = wire::Remove { path: path.to_owned(), recursive };
        self.done(request::Kind::Remove(request)).await
    }

    /// Within one file system. Without `replace`, what is at `to` stays and is
    /// an error.
    pub async fn rename(&self, from: &str, to: &str, replace: bool) -> Result<(), GuestError> {
        self.needs(capability::FILES_2, "rename files")?;
        let request = wire::Rename { from: from.to_owned(), to: to.to_owned(), replace };
        self.done(request::Kind::Rename(request)).await
    }

    /// A symbolic link at `path` that points to `target`, whatever that is.
    pub async fn symlink(&self, path: &str, target: &str, replace: bool) -> Result<(), GuestError> {
        self.needs(capability::FILES_2, "make symbolic links")?;
        let request = wire::Symlink { path: path.to_owned(), target: target.to_owned(), replace };
        self.done(request::Kind::Symlink(request)).await
    }

    pub async fn set_attributes(
        &self,
        path: &str,
        change: FileAttributes,
    ) -> Result<(), GuestError> {
        self.needs(capability::FILES_2, "change the attributes of files")?;
        self.done(request::Kind::SetAttributes(convert::attributes(path, &change))).await
    }

    /// Returns once the watch holds: no later change is missed without an
    /// overflow that says so.
    pub async fn watch_files(&self, path: &str, recursive: bool) -> Result<FileWatch, GuestError> {
        self.needs(capability::FILES_2, "watch files")?;
        let request = wire::WatchFiles { path: path.to_owned(), recursive };
        let (reader, _) = self.open(request::Kind::WatchFiles(request)).await?;
        FileWatch::begin(reader).await
    }
}
