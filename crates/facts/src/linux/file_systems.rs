use std::collections::BTreeSet;

use inn_api::FileSystem;

use crate::Root;

/// Held in memory, yet places for files of which people ask how full they are.
const WITHOUT_DEVICE: [&str; 6] = ["tmpfs", "overlay", "zfs", "virtiofs", "9p", "fuse"];

/// A server that is gone would hold whoever asks them for their size.
const FROM_NETWORK: [&str; 5] = ["nfs", "nfs4", "cifs", "smb3", "ceph"];

pub(crate) fn mounted(root: &Root) -> Vec<FileSystem> {
    let text = root.text("/proc/self/mountinfo").unwrap_or_default();
    let told = sizes(root);
    let mut seen = BTreeSet::new();
    let mut all: Vec<FileSystem> = Vec::new();
    for mount in text.lines().filter_map(Mount::parse) {
        let from_network = FROM_NETWORK.contains(&mount.kind);
        let is_place = mount.source.starts_with('/')
            || from_network
            || WITHOUT_DEVICE.contains(&mount.kind.split('.').next().unwrap_or_default());
        if !is_place || !seen.insert(mount.device) {
            continue;
        }
        let [total_bytes, free_bytes, available_bytes] = if from_network {
            let what = format!("the size of {}", mount.point);
            root.not_seen(&what, "a server that is gone would hold whoever asks it");
            [0; 3]
        } else {
            told(&mount.point).unwrap_or_else(|why| {
                root.not_seen(&format!("the size of {}", mount.point), &why);
                [0; 3]
            })
        };
        // A place that holds nothing is an attribute and no storage.
        if total_bytes == 0 && !from_network {
            continue;
        }
        // What is mounted over another one hides it.
        all.retain(|one| one.mounted_at != mount.point);
        all.push(FileSystem {
            mounted_at: mount.point,
            source: mount.source,
            kind: mount.kind.to_owned(),
            read_only: mount.read_only,
            total_bytes,
            free_bytes,
            available_bytes,
        });
    }
    all
}

/// Total, free and available bytes of the file system that a path is on.
fn sizes(root: &Root) -> impl Fn(&str) -> Result<[u64; 3], String> {
    let table = if root.is_live() { None } else { root.text("statvfs") };
    let live = root.is_live();
    move |path: &str| {
        if live {
            let fs = rustix::fs::statvfs(path).map_err(|error| error.to_string())?;
            let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
            return Ok([bytes(fs.f_blocks), bytes(fs.f_bfree), bytes(fs.f_bavail)]);
        }
        let line = table.as_deref().unwrap_or_default().lines().find_map(|line| {
            let mut fields = line.split_whitespace();
            (fields.next() == Some(path)).then(|| fields.flat_map(str::parse).collect::<Vec<u64>>())
        });
        let numbers = line.and_then(|numbers| <[u64; 3]>::try_from(numbers).ok());
        numbers.ok_or_else(|| "it was not recorded".to_owned())
    }
}

struct Mount<'a> {
    device: &'a str,
    point: String,
    kind: &'a str,
    source: String,
    read_only: bool,
}

impl<'a> Mount<'a> {
    /// A line of proc(5)'s mountinfo.
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let mut right = right.split(' ');
        let (kind, source) = (right.next()?, right.next()?);
        let options = [*left.get(5)?, right.next().unwrap_or_default()];
        Some(Self {
            device: left.get(2)?,
            point: unescape(left.get(4)?),
            kind,
            source: unescape(source),
            read_only: options.iter().any(|text| text.split(',').any(|option| option == "ro")),
        })
    }
}

/// White space and backslashes are written in octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}
