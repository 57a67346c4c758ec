//! A guest's files: what they are, and changes of one at a time.

mod transfer;
mod watch;

use std::time::Duration;

use http::Method;
use inn_api::{FileAttributes, FileInfo, FileList, MakeDir, Rename, Symlink, UploadState};

use crate::query::Target;
use crate::{Client, ClientError};

pub use transfer::{FileDownload, FileRead, FileWrite};
pub use watch::{FileEvent, FileEvents};

/// A tree of a million files takes that long to remove.
const REMOVAL: Duration = Duration::from_secs(600);

/// Paths are absolute everywhere.
impl Client {
    /// Of a symlink itself unless `follow`.
    pub async fn file_info(
        &self,
        vm: &str,
        path: &str,
        follow: bool,
    ) -> Result<FileInfo, ClientError> {
        let target = files(vm, "info").with("path", path).with("follow", follow);
        self.get(&target).await
    }

    pub async fn list_files(&self, vm: &str, path: &str) -> Result<FileList, ClientError> {
        self.get(&files(vm, "list").with("path", path)).await
    }

    pub async fn make_dir(&self, vm: &str, dir: &MakeDir) -> Result<(), ClientError> {
        self.done(Method::POST, &files(vm, "mkdir"), Some(dir), Duration::ZERO).await
    }

    pub async fn rename(&self, vm: &str, rename: &Rename) -> Result<(), ClientError> {
        self.done(Method::POST, &files(vm, "rename"), Some(rename), Duration::ZERO).await
    }

    pub async fn symlink(&self, vm: &str, link: &Symlink) -> Result<(), ClientError> {
        self.done(Method::POST, &files(vm, "symlink"), Some(link), Duration::ZERO).await
    }

    pub async fn set_file_attributes(
        &self,
        vm: &str,
        change: &FileAttributes,
    ) -> Result<(), ClientError> {
        self.done(Method::POST, &files(vm, "attributes"), Some(change), Duration::ZERO).await
    }

    /// A file or an empty directory; with `recursive` a whole tree.
    pub async fn remove_file(
        &self,
        vm: &str,
        path: &str,
        recursive: bool,
    ) -> Result<(), ClientError> {
        let target =
            Target::api(&["vms", vm, "files"]).with("path", path).with_flag("recursive", recursive);
        self.done(Method::DELETE, &target, None::<&()>, REMOVAL).await
    }

    /// How much the guest has of an upload that broke off.
    pub async fn upload_state(
        &self,
        vm: &str,
        path: &str,
        upload: &str,
    ) -> Result<UploadState, ClientError> {
        self.get(&files(vm, "upload").with("path", path).with("upload", upload)).await
    }

    /// Has the guest throw away what it has of an upload.
    pub async fn drop_upload(&self, vm: &str, path: &str, upload: &str) -> Result<(), ClientError> {
        let target = files(vm, "upload").with("path", path).with("upload", upload);
        self.done(Method::DELETE, &target, None::<&()>, Duration::ZERO).await
    }
}

fn files(vm: &str, what: &str) -> Target {
    Target::api(&["vms", vm, "files", what])
}
