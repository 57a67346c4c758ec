//! A registry of the tests' own: as much of the OCI distribution spec 1.1 as a
//! pull asks for ("Pulling manifests", "Pulling blobs"), over plain HTTP on a
//! loopback port, for as long as the process lives.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const REPOSITORY: &str = "/v2/team/app";

/// Serves the image `team/app:1`.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
}

impl Registry {
    /// Of these layers, each a tar; it runs `command`.
    pub fn serve(layers: &[Vec<u8>], command: &[&str]) -> Self {
        let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": architecture, "os": "linux", "config": { "Cmd": command },
            "rootfs": { "type": "layers", "diff_ids": ids },
        })
        .to_string()
        .into_bytes();
        let layer = |tar: &Vec<u8>| described("application/vnd.oci.image.layer.v1.tar", tar);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": described("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(layer).collect::<Vec<_>>(),
        })
        .to_string()
        .into_bytes();
        let mut files = HashMap::new();
        for blob in layers.iter().chain([&config]) {
            files.insert(format!("{REPOSITORY}/blobs/{}", digest(blob)), blob.clone());
        }
        files.insert(format!("{REPOSITORY}/manifests/{}", digest(&manifest)), manifest.clone());
        files.insert(format!("{REPOSITORY}/manifests/1"), manifest);
        files.insert("/v2/".to_owned(), b"{}".to_vec());
        let files = Arc::new(files);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback is free");
        let address = listener.local_addr().expect("it is bound");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let files = Arc::clone(&files);
                // Who hangs up early is dead, and that is what the test is about.
                std::thread::spawn(move || drop(answer(stream, &files)));
            }
        });
        Self { address }
    }

    pub fn reference(&self) -> String {
        format!("{}/team/app:1", self.address)
    }
}

fn answer(stream: TcpStream, files: &HashMap<String, Vec<u8>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let mut request = String::new();
    lines.read_line(&mut request)?;
    let mut from = 0;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.trim().trim_end_matches('-').parse().unwrap_or(0);
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let Some(body) = files.get(path) else {
        return stream.write_all(
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    };
    let kind = if path.contains("/manifests/") { MANIFEST } else { "application/octet-stream" };
    let rest = body.get(from..).unwrap_or_default();
    let status = match from {
        0 => "200 OK".to_owned(),
        _ => format!(
            "206 Partial Content\r\nContent-Range: bytes {from}-{}/{}",
            body.len() - 1,
            body.len()
        ),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        rest.len()
    );
    stream.write_all(head.as_bytes())?;
    if !request.starts_with("HEAD ") {
        stream.write_all(rest)?;
    }
    Ok(())
}

fn described(kind: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() })
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
