//! Disk images by URL, from an HTTP server of our own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use inn_image::disk_image::checksum::Checksum;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::agent::TestAgent;

const SIZE: usize = 1 << 20;

/// Serves one file and its list of checksums, in pieces that it breaks off as
/// often as it is told.
struct Server {
    address: String,
    cuts: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn start(file: Vec<u8>, cuts: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let cuts = Arc::new(AtomicUsize::new(cuts));
        let asked = Arc::new(AtomicUsize::new(0));
        let (left, count) = (Arc::clone(&cuts), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let head = String::from_utf8_lossy(&head).to_lowercase();
                if !head.starts_with("get /disk.img.gz ") {
                    let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
                    let _ = stream.write_all(answer.as_bytes()).await;
                    continue;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let range = head.split("range: bytes=").nth(1);
                let from = range.and_then(|rest| rest.split('-').next()?.parse::<usize>().ok());
                let (from, status) = match from {
                    Some(from) => (from, "206 Partial Content"),
                    None => (0, "200 OK"),
                };
                let mut answer = format!(
                    "HTTP/1.1 {status}\r\netag: \"one\"\r\ncontent-length: {}\r\n",
                    file.len() - from
                );
                if from > 0 {
                    let (last, all) = (file.len() - 1, file.len());
                    answer.push_str(&format!("content-range: bytes {from}-{last}/{all}\r\n"));
                }
                answer.push_str("connection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
                let cut =
                    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
                let until = match cut {
                    Ok(_) => from + (file.len() - from) / 2,
                    Err(_) => file.len(),
                };
                let _ = stream.write_all(&file[from..until]).await;
            }
        });
        Self { address, cuts, asked }
    }

    fn url(&self) -> String {
        format!("http://{}/disk.img.gz", self.address)
    }
}

/// A disk that does not pack well, and what it packs to.
fn packed() -> (Vec<u8>, Vec<u8>) {
    let mut disk = vec![0; SIZE];
    let mut word = 1u32;
    for byte in &mut disk[..SIZE / 2] {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = word.to_be_bytes()[0];
    }
    let packed = gzip(&disk);
    (disk, packed)
}

fn gzip(disk: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(disk).unwrap();
    gz.finish().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn pull(agent: &TestAgent, body: &Value) -> Value {
    agent.client.post("/api/disk-images?wait=60s", body).await.ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_comes_by_its_url_and_vms_are_made_from_it() {
    let (disk, packed) = packed();
    let sum = hex(&packed);
    let server = Server::start(packed, 2).await;
    let agent = TestAgent::start().await;
    let list = agent.dir.path().join("SHA256SUMS");
    std::fs::write(&list, format!("{sum}  disk.img.gz\n")).unwrap();
    let checksums = format!("file://{}", list.display());
    let body = json!({ "url": server.url(), "checksums": checksums });
    let pulled = pull(&agent, &body).await;
    assert_eq!(pulled["state"], "succeeded", "{pulled}");
    assert_eq!(pulled["result"], format!("sha256:{sum}"));
    assert_eq!(server.cuts.load(Ordering::SeqCst), 0, "it was cut off, and went on");
    let asked = server.asked.load(Ordering::SeqCst);
    let again = pull(&agent, &json!({ "url": server.url(), "checksum": sum })).await;
    assert_eq!(again["state"], "succeeded", "{again}");
    assert_eq!(server.asked.load(Ordering::SeqCst), asked, "it is here");

    let all = agent.client.get("/api/disk-images").await.ok();
    let items = all["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "{all}");
    assert_eq!((&items[0]["sha256"], &items[0]["diskBytes"]), (&json!(sum), &json!(SIZE)));
    assert!(items[0]["allocatedBytes"].as_u64().unwrap() < SIZE as u64, "holes stay holes");
    let vm = json!({
        "image": null, "start": false, "diskBytes": 16 << 20,
        "diskImage": { "url": server.url(), "sha256": sum },
    });
    let made = agent.create("remote", vm.clone()).await;
    assert_eq!(made["diskImage"]["sha256"], json!(sum), "{made}");
    agent.client.post("/api/vms/remote/start?wait=60s", &json!({})).await.ok();
    let copy = agent.node.vms.find("remote").unwrap().paths().disk();
    let copy = std::fs::read(copy).unwrap();
    assert!(copy.len() == 16 << 20 && copy.starts_with(&disk));

    let gone = agent.client.delete(&format!("/api/disk-images/{sum}")).await;
    assert_eq!(gone.status, 204);
    let answer = agent.client.post("/api/vms", &super::agent::request("late", vm)).await;
    let (status, code, detail) = answer.problem();
    assert_eq!((status, code.as_str()), (404, "not-found"));
    assert!(detail.contains("inn image pull"), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_what_it_should_be_is_an_operation_s_result() {
    let (_, packed) = packed();
    let server = Server::start(packed, 0).await;
    let agent = TestAgent::start().await;
    let failed = async |body: Value, word: &str| {
        let operation = pull(&agent, &body).await;
        assert_eq!(operation["state"], "failed", "{operation}");
        let detail = operation["problem"]["detail"].as_str().unwrap();
        assert!(detail.contains(word), "{detail}");
    };
    let wrong = "ab".repeat(32);
    failed(json!({ "url": server.url(), "checksum": wrong }), "where sha256:abab").await;
    let nowhere = format!("http://{}/nothing.img", server.address);
    failed(json!({ "url": nowhere, "checksum": wrong }), "nothing.img").await;
    failed(json!({ "url": "file:///not/there.img" }), "/not/there.img").await;
    let refused = agent.client.post("/api/disk-images", &json!({ "url": server.url() })).await;
    let (status, _, detail) = refused.problem();
    assert_eq!(status, 400);
    assert!(detail.contains("without TLS") && detail.contains("sha256"), "{detail}");
    assert_eq!(agent.client.get("/api/disk-images").await.ok()["items"], json!([]));
}

/// Another agent with the same cache: who comes second waits, and finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_another_agent_has_is_waited_for() {
    let agent = TestAgent::start().await;
    let (disk, packed) = packed();
    let server = Server::start(packed.clone(), 0).await;
    let url = server.url();
    let expected = Checksum::parse(&hex(&packed)).unwrap();
    let store = agent.node.disk_images.store().clone();
    let theirs = store.partial(&url, Some(&expected));
    let lock = theirs.lock().unwrap().expect("nobody has it");
    assert!(store.partial(&url, Some(&expected)).lock().unwrap().is_none());
    let body = json!({ "url": url, "checksum": expected.hex() });
    let begun = agent.client.post("/api/disk-images", &body).await.ok();
    let path = format!("/api/operations/{}?wait=500ms&version=0", begun["id"].as_str().unwrap());
    assert_eq!(agent.client.get(&path).await.ok()["state"], "running");
    assert_eq!(server.asked.load(Ordering::SeqCst), 0, "it is another's to fetch");
    drop(lock);
    let path = format!("/api/operations/{}?wait=60s", begun["id"].as_str().unwrap());
    let mut version = 0;
    let done = loop {
        let operation = agent.client.get(&format!("{path}&version={version}")).await.ok();
        if operation["state"] != "running" {
            break operation;
        }
        version = operation["version"].as_u64().unwrap();
    };
    assert_eq!(done["state"], "succeeded", "{done}");
    let left = std::fs::read_dir(store.partial_dir()).unwrap().count();
    assert_eq!((left, disk.len()), (0, disk.len()), "what was fetched is nobody's any more");
}
