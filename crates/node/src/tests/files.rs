//! A guest's files over the API, those of a real inn-guest.

use std::io;
use std::os::unix::fs::MetadataExt;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use hyper::Request;
use inn_api::{Code, FileAttributes, FileChangeKind, FileKind, MakeDir, Rename, Symlink};
use inn_client::{Client, FileDownload, FileEvent, FileRead, FileWrite};
use inn_guest_proto::BlockSum;
use jiff::Timestamp;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::PATIENCE;
use super::agent::TestAgent;
use super::real_guest::RealGuest;

const UPLOAD: &str = "0123456789abcdef";

struct Setting {
    agent: TestAgent,
    guest: RealGuest,
    client: Client,
}

impl Setting {
    /// The VM `web`, whose guest is real.
    async fn new() -> Self {
        Self::of(RealGuest::start()).await
    }

    async fn of(guest: RealGuest) -> Self {
        let agent = TestAgent::with(&[], guest.behaviour()).await;
        agent.create("web", json!({ "workload": "none" })).await;
        let client = Client::unix(agent.node.config.paths.api_socket());
        Self { agent, guest, client }
    }

    async fn put(&self, path: &str, write: &FileWrite, content: &[u8]) -> inn_api::FileWritten {
        let parts: Vec<_> =
            content.chunks(100_000).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
        self.client.write_file("web", path, write, stream::iter(parts)).await.unwrap()
    }

    /// How much of an upload the guest has, once that is anything.
    async fn kept(&self, path: &str) -> u64 {
        let begun = async {
            loop {
                let state = self.client.upload_state("web", path, UPLOAD).await.unwrap();
                if state.offset > 0 {
                    return state.offset;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, begun).await.expect("some of it arrives")
    }

    async fn get(&self, path: &str, read: &FileRead) -> (Vec<u8>, FileDownload) {
        let mut download = self.client.read_file("web", path, read).await.unwrap();
        let mut content = Vec::new();
        while let Some(part) = download.next().await {
            content.extend_from_slice(&part.unwrap());
        }
        (content, download)
    }
}

/// 3 MB with a hole of a MiB in it and another at its end.
fn sample() -> Vec<u8> {
    let mut content: Vec<u8> =
        (0..1_000_000u32).flat_map(|n| n.to_le_bytes()).take(1 << 20).collect();
    content.resize(2 << 20, 0);
    content.extend_from_slice(&[7; 5000]);
    content.resize(3_000_000, 0);
    content
}

fn sum(content: &[u8]) -> [u8; 8] {
    let mut sum = BlockSum::default();
    sum.add(content);
    sum.finish()
}

fn hex(sum: [u8; 8]) -> String {
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_goes_in_and_comes_out_sparse_and_summed() {
    let setting = Setting::new().await;
    let (content, path) = (sample(), setting.guest.path("deep/down/a b"));
    let write = FileWrite {
        mode: Some(0o640),
        modified_at: Some(Timestamp::UNIX_EPOCH),
        length: Some(content.len() as u64),
        ..FileWrite::default()
    };
    let written = setting.put(&path, &write, &content).await;
    assert_eq!(written.bytes, 3_000_000);
    assert_eq!(written.block_sum, Some(hex(sum(&content))));
    assert!(std::fs::read(&path).unwrap() == content);
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o640, 0));
    assert!(meta.blocks() * 512 < 1_200_000, "two holes: {}", meta.blocks() * 512);

    let (back, download) = setting.get(&path, &FileRead::default()).await;
    assert!(back == content);
    assert_eq!(download.block_sum(), Some(sum(&content)));
    for (offset, length) in [(0, 1), (1 << 20, 70_000), (999_999, 1_500_000), (2_999_999, 50)] {
        let read = FileRead { offset, length: Some(length), if_match: None };
        let (part, download) = setting.get(&path, &read).await;
        let from = usize::try_from(offset).unwrap();
        let wanted = &content[from..content.len().min(from + usize::try_from(length).unwrap())];
        assert!(part == wanted, "{offset}+{length}: {} bytes", part.len());
        assert_eq!(download.block_sum(), Some(sum(wanted)), "{offset}+{length}");
        assert_eq!(download.length(), Some(wanted.len() as u64));
    }

    // Into the file, in its place.
    let write = FileWrite { offset: 10, ..FileWrite::default() };
    setting.put(&path, &write, &[0; 100_000]).await;
    let mut content = content;
    content[10..100_010].fill(0);
    assert!(std::fs::read(&path).unwrap() == content);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_and_conditions_are_http_s() {
    let setting = Setting::new().await;
    let path = setting.guest.path("file");
    std::fs::write(&path, b"0123456789").unwrap();
    let url = format!("/api/vms/web/files?path={path}");
    let get = |headers: &[(&str, &str)]| {
        let mut request = Request::get(&url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let client = setting.agent.client.clone();
        async move { client.send(request, "").await }
    };
    let whole = get(&[]).await;
    assert_eq!((whole.status, &whole.body[..]), (200, &b"0123456789"[..]));
    assert_eq!((whole.header("content-length"), whole.header("accept-ranges")), ("10", "bytes"));
    assert!(whole.header("last-modified").ends_with(" GMT"), "{whole:?}");
    assert!(whole.trailers.is_empty());
    let etag = whole.header("etag").to_owned();
    let summed = get(&[("te", "trailers")]).await;
    assert_eq!(summed.trailers["inn-block-sum"], hex(sum(b"0123456789")));

    let part = get(&[("range", "bytes=2-4"), ("if-range", &etag)]).await;
    assert_eq!((part.status, &part.body[..]), (206, &b"234"[..]));
    assert_eq!(
        (part.header("content-range"), part.header("content-length")),
        ("bytes 2-4/10", "3")
    );
    let rest = get(&[("range", "bytes=8-99")]).await;
    assert_eq!((rest.status, &rest.body[..]), (206, &b"89"[..]));
    assert_eq!(rest.header("content-range"), "bytes 8-9/10");
    let other = get(&[("range", "bytes=2-4"), ("if-range", "\"1-2-3-4\"")]).await;
    assert_eq!((other.status, other.body.len()), (200, 10));
    let beyond = get(&[("range", "bytes=10-")]).await;
    assert_eq!(beyond.problem().0, 416);
    assert_eq!(beyond.header("content-range"), "bytes */10");
    assert_eq!(get(&[("if-none-match", &etag)]).await.status, 304);
    assert_eq!(get(&[("if-match", &etag)]).await.status, 200);
    for tag in ["\"1-2-3-4\"", "\"foreign\"", "\"a\", \"b\""] {
        let (status, code, detail) = get(&[("if-match", tag)]).await.problem();
        assert_eq!((status, code.as_str()), (412, "guest-file-changed"), "{tag}: {detail}");
    }
    std::fs::write(&path, b"changed").unwrap();
    assert_eq!(get(&[("if-match", &etag), ("range", "bytes=1-")]).await.problem().0, 412);
    let head = setting.agent.client.send(Request::head(&url), "").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "7", 0));

    // What has content and no size.
    let proc = setting.agent.client.get("/api/vms/web/files?path=/proc/self/status").await;
    assert!(proc.status == 200 && proc.body.starts_with(b"Name:"), "{proc:?}");
    std::fs::write(&path, b"").unwrap();
    let empty = get(&[("te", "trailers")]).await;
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    assert_eq!(empty.trailers["inn-block-sum"], hex(sum(b"")));
    let missing = setting.agent.client.get("/api/vms/web/files?path=/none/such").await;
    assert_eq!(missing.problem().1, "not-found");
    let relative = setting.agent.client.get("/api/vms/web/files?path=etc").await;
    assert_eq!(relative.problem().0, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_broke_off_goes_on_after_the_agent_s_restart() {
    let mut setting = Setting::new().await;
    let (content, path) = (sample(), setting.guest.path("big"));
    std::fs::write(&path, b"before").unwrap();
    // A client that dies in the middle.
    let socket = setting.agent.node.config.paths.api_socket();
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let head = format!(
        "PUT /api/vms/web/files?path={path}&upload={UPLOAD} HTTP/1.1\r\nhost: localhost\r\n\
         content-length: {}\r\n\r\n",
        content.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&content[..500_000]).await.unwrap();
    let early = setting.kept(&path).await;
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    // Closed or reset: either way it is over.
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!(std::fs::read(&path).unwrap(), b"before");

    setting.guest.restart();
    // What was on its way then may have arrived since.
    let state = setting.client.upload_state("web", &path, UPLOAD).await.unwrap();
    assert!((early..=500_000).contains(&state.offset), "{early} {state:?}");
    let late =
        FileWrite { upload: Some(UPLOAD.into()), offset: state.offset + 1, ..FileWrite::default() };
    let nothing = stream::empty::<io::Result<Bytes>>();
    let error = setting.client.write_file("web", &path, &late, nothing).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::Conflict), "{error}");
    // A byte that the guest has already does no harm.
    let write = FileWrite {
        upload: Some(UPLOAD.into()),
        offset: state.offset - 1,
        length: Some(content.len() as u64),
        ..FileWrite::default()
    };
    let from = usize::try_from(state.offset - 1).unwrap();
    let written = setting.put(&path, &write, &content[from..]).await;
    assert_eq!(written.bytes, content.len() as u64);
    assert_eq!(written.block_sum, Some(hex(sum(&content))), "of the whole");
    assert!(std::fs::read(&path).unwrap() == content);

    let left = setting.client.upload_state("web", &path, UPLOAD).await.unwrap();
    assert_eq!(left.offset, 0);
    setting.client.drop_upload("web", &path, UPLOAD).await.unwrap();
    let error = setting.client.upload_state("web", &path, "short").await.unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidRequest));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_comes_again_goes_on_before_its_former_self_is_missed() {
    let setting = Setting::new().await;
    let (content, path) = (sample(), setting.guest.path("again"));
    let write = |offset: usize| FileWrite {
        upload: Some(UPLOAD.into()),
        offset: offset as u64,
        length: Some(content.len() as u64),
        ..FileWrite::default()
    };
    // A connection that neither ends nor brings anything more.
    let part = Bytes::copy_from_slice(&content[..200_000]);
    let stuck = stream::iter([Ok(part)]).chain(stream::pending());
    let (client, first) = (setting.client.clone(), write(0));
    let to = path.clone();
    let stuck = tokio::spawn(async move { client.write_file("web", &to, &first, stuck).await });
    let offset = setting.kept(&path).await;
    let from = usize::try_from(offset).unwrap();
    let written = setting.put(&path, &write(from), &content[from..]).await;
    assert_eq!(written.block_sum, Some(hex(sum(&content))));
    assert!(std::fs::read(&path).unwrap() == content);
    let error = stuck.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(Code::Conflict), "{error:?}");
    assert!(error.to_string().contains("a later request"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_heard_by_who_is_still_sending() {
    let setting = Setting::new().await;
    let path = setting.guest.path("refused");
    let (upload, offset) = (Some(UPLOAD.to_owned()), 1);
    let write = FileWrite { upload, offset, ..FileWrite::default() };
    for _ in 0..20 {
        // More than any buffer on the way holds.
        let content = stream::repeat_with(|| Ok(Bytes::from_static(&[7; 64 << 10]))).take(4096);
        let error = setting.client.write_file("web", &path, &write, content).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::Conflict), "{error:?}");
        assert!(error.to_string().contains("has 0 bytes"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_says_so_and_keeps_nothing() {
    let setting = Setting::of(RealGuest::start_with_small_disk()).await;
    let path = setting.guest.path("small/big");
    // Whether it is known how much comes or not.
    for length in [Some(4 << 20), None] {
        let write = FileWrite { length, ..FileWrite::default() };
        let content = stream::repeat_with(|| Ok(Bytes::from_static(&[7; 64 << 10]))).take(64);
        let error = setting.client.write_file("web", &path, &write, content).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::GuestDiskFull), "{length:?}: {error:?}");
        assert!(error.to_string().contains("the guest's disk is full"), "{error}");
        let small = setting.guest.path("small");
        let left = setting.client.list_files("web", &small).await.unwrap().items;
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_looked_at_changed_and_watched() {
    let setting = Setting::new().await;
    let client = &setting.client;
    let dir = setting.guest.path("dir/sub");
    let make = MakeDir { path: dir.clone(), mode: Some("0700".into()), parents: true };
    client.make_dir("web", &make).await.unwrap();
    let mut events = client.watch_files("web", &dir, false).await.unwrap();
    let (a, b, link) = (format!("{dir}/a"), format!("{dir}/b"), format!("{dir}/link"));
    setting.put(&a, &FileWrite::default(), b"hello").await;
    let created = async {
        loop {
            match events.next().await.unwrap().unwrap() {
                FileEvent::Change(change) if change.path == a => return change.kind,
                _ => {}
            }
        }
    };
    let kind = tokio::time::timeout(PATIENCE, created).await.expect("the change is told");
    assert!(matches!(kind, FileChangeKind::Created | FileChangeKind::Renamed), "{kind:?}");

    let rename = Rename { from: a.clone(), to: b.clone(), replace: false };
    client.rename("web", &rename).await.unwrap();
    let to_link = Symlink { path: link.clone(), target: "b".into(), replace: false };
    client.symlink("web", &to_link).await.unwrap();
    let change = FileAttributes {
        path: b.clone(),
        mode: Some("0600".into()),
        modified_at: Some(Timestamp::UNIX_EPOCH),
        ..FileAttributes::default()
    };
    client.set_file_attributes("web", &change).await.unwrap();
    let info = client.file_info("web", &link, false).await.unwrap();
    assert_eq!((info.kind, info.target.as_deref()), (FileKind::Symlink, Some("b")));
    let info = client.file_info("web", &link, true).await.unwrap();
    assert_eq!((info.kind, info.size_bytes, info.mode.as_str()), (FileKind::File, 5, "0600"));
    assert_eq!(info.modified_at, Timestamp::UNIX_EPOCH);
    let (_, download) = setting.get(&b, &FileRead::default()).await;
    assert_eq!(download.etag(), Some(info.etag.as_str()));
    let mut names: Vec<String> =
        client.list_files("web", &dir).await.unwrap().items.into_iter().map(|i| i.name).collect();
    names.sort();
    assert_eq!(names, ["b", "link"]);

    let mut tar = Vec::new();
    let mut tree = client.read_tree("web", &dir).await.unwrap();
    while let Some(part) = tree.next().await {
        tar.extend_from_slice(&part.unwrap());
    }
    let copy = setting.guest.path("copy");
    let content = stream::iter([Ok(Bytes::from(tar))]);
    let written = client.write_tree("web", &copy, content).await.unwrap();
    assert!(written.bytes > 0 && written.block_sum.is_none(), "{written:?}");
    assert_eq!(std::fs::read(format!("{copy}/b")).unwrap(), b"hello");

    let error = client.remove_file("web", &dir, false).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::GuestError), "{error}");
    client.remove_file("web", &dir, true).await.unwrap();
    assert!(client.file_info("web", &dir, true).await.unwrap_err().is_not_found());
    let half = FileAttributes { path: copy, uid: Some(0), ..FileAttributes::default() };
    let error = client.set_file_attributes("web", &half).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidRequest));
}
