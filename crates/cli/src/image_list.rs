//! `inn image list` and `delete`: images, and disk images beside them.

use inn_client::api::{CachedDiskImage, Code, Image};
use inn_client::{Client, ClientError};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::context::{Context, complain};
use crate::failure::{FAILED, Failure};
use crate::table::Table;
use crate::view::age;

/// Digits of a SHA-256 that name a disk image at least.
const DIGITS: usize = 6;

pub(crate) async fn list(context: &Context) -> Result<u8, Failure> {
    let client = context.client().await?;
    let mut images = client.images().await?.items;
    images.sort_by(|a, b| a.name.cmp(&b.name));
    let disks = client.disk_images().await?.items;
    let all: Result<Vec<Value>, _> = images.iter().map(of_image).collect();
    let mut all = all.map_err(|e| Failure::because("cannot write the result as JSON", &e))?;
    all.extend(disks.iter().map(of_disk));
    context.result(&all, || table(&images, &disks, Timestamp::now()))?;
    Ok(0)
}

fn of_image(image: &Image) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(image)?;
    value["kind"] = json!("image");
    Ok(value)
}

fn of_disk(disk: &CachedDiskImage) -> Value {
    json!({
        "kind": "disk-image", "id": disk.id, "name": name(disk), "url": disk.url,
        "sha256": disk.sha256, "diskBytes": disk.disk_bytes,
        "allocatedBytes": disk.allocated_bytes, "createdAt": disk.fetched_at,
        "lastUsedAt": disk.last_used_at,
    })
}

/// What its publisher calls it, or what it was called when it was made here.
fn name(disk: &CachedDiskImage) -> &str {
    let url = disk.url.strip_prefix("vm-commit:").unwrap_or(&disk.url);
    if disk.url == url { url.rsplit('/').next().unwrap_or(url) } else { url }
}

fn table(images: &[Image], disks: &[CachedDiskImage], now: Timestamp) -> String {
    let head = ["NAME", "KIND", "ID", "DISK", "IMPORTED", "ARCH", "USED BY", "AGE"];
    let mut table = Table::new(head);
    for image in images {
        let used_by = match image.used_by.as_slice() {
            [] => "-".to_owned(),
            [one] => one.clone(),
            [one, rest @ ..] => format!("{one} and {} more", rest.len()),
        };
        table.push([
            image.name.to_string(),
            "image".to_owned(),
            image.id.short(),
            image.disk_bytes.to_string(),
            image.blob_bytes.to_string(),
            image.architecture.clone(),
            used_by,
            age(image.created_at, now),
        ]);
    }
    for disk in disks {
        table.push([
            name(disk).to_owned(),
            "disk image".to_owned(),
            disk.id.short(),
            disk.disk_bytes.to_string(),
            disk.allocated_bytes.to_string(),
            "-".to_owned(),
            // VMs have copies of their own.
            "-".to_owned(),
            age(disk.fetched_at, now),
        ]);
    }
    table.render()
}

pub(crate) async fn delete(context: &Context, images: &[String]) -> Result<u8, Failure> {
    let client = context.client().await?;
    let mut deleted = Vec::new();
    let mut failed = 0;
    for image in images {
        match delete_one(&client, image).await {
            Ok(()) => {
                deleted.push(image);
                if !context.json() && !context.globals.quiet {
                    crate::context::print(format!("{image} deleted\n").as_bytes())?;
                }
            }
            Err(failure) => {
                failed += 1;
                complain(failure.sentence());
            }
        }
    }
    if context.json() {
        let deleted: Vec<_> =
            deleted.iter().map(|name| json!({ "name": name, "status": "deleted" })).collect();
        context.result(&deleted, String::new)?;
    }
    Ok(if failed > 0 { FAILED } else { 0 })
}

/// Whatever has that name, an image first.
async fn delete_one(client: &Client, name: &str) -> Result<(), Failure> {
    let error = match client.delete_image(name).await {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let is_absent = |error: &ClientError| {
        matches!(error, ClientError::Problem(problem)
            if matches!(problem.code, Code::NotFound | Code::InvalidRequest))
    };
    if !is_absent(&error) {
        return Err(error.into());
    }
    let disks = client.disk_images().await?.items;
    let found: Vec<&CachedDiskImage> = disks.iter().filter(|disk| is_called(disk, name)).collect();
    match found.as_slice() {
        [] => Err(error.into()),
        [disk] => Ok(client.delete_disk_image(&disk.sha256).await?),
        several => Err(Failure::new(format!(
            "{} disk images are called {name}; give the SHA-256 that `inn image list` shows",
            several.len()
        ))),
    }
}

fn is_called(disk: &CachedDiskImage, wanted: &str) -> bool {
    let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let by_digest = hex.len() >= DIGITS && disk.sha256.starts_with(hex);
    by_digest || name(disk) == wanted || disk.url == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(url: &str, digit: char) -> CachedDiskImage {
        let sha256: String = std::iter::repeat_n(digit, 64).collect();
        CachedDiskImage {
            id: format!("sha256:{sha256}").parse().unwrap(),
            sha256,
            url: url.to_owned(),
            disk_bytes: inn_units::Bytes::gib(2),
            allocated_bytes: inn_units::Bytes::mib(300),
            fetched_at: Timestamp::UNIX_EPOCH,
            last_used_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn disk_images_stand_in_the_list_by_name_and_kind() {
        let disks =
            [disk("https://c.example/debian-12.qcow2", 'a'), disk("vm-commit:db/backup:1", 'b')];
        assert_eq!(disks.each_ref().map(name), ["debian-12.qcow2", "db/backup:1"]);
        let shown = table(&[], &disks, Timestamp::UNIX_EPOCH);
        assert!(shown.contains("KIND") && shown.contains("disk image"), "{shown}");
        let json = of_disk(&disks[0]);
        assert_eq!(
            (&json["kind"], &json["name"]),
            (&json!("disk-image"), &json!("debian-12.qcow2"))
        );
        assert!(is_called(&disks[0], "debian-12.qcow2") && is_called(&disks[0], "aaaaaa"));
        assert!(is_called(&disks[0], &disks[0].id.to_string()) && !is_called(&disks[1], "aaaaaa"));
        assert!(!is_called(&disks[0], "aaa") && is_called(&disks[1], "db/backup:1"));
    }
}
