//! Tars of `docker save`, without an OCI layout inside: before Docker 25, and
//! what other tools write in that form.
//!
//! They have no manifest in the image spec's sense. One is made from the
//! configuration and the layers as they lie in the archive, always the same
//! for the same archive; its digest is the image's.

use std::collections::BTreeMap;
use std::io;

use inn_units::Digest;
use sha2::{Digest as _, Sha256};

use super::json::{Descriptor, DockerImage, Manifest};
use super::{Chosen, Layer, Package, Wanted, check_digest, run_config, same_reference, which};
use crate::blob::digest_of;
use crate::error::ImageError;
use crate::layer::Compression;
use crate::watch::Tally;

pub(super) fn choose(
    package: &Package,
    wanted: Wanted<'_>,
    tally: &Tally<'_>,
) -> Result<Chosen, ImageError> {
    let images: Vec<DockerImage> =
        package.document("manifest.json", &package.small("manifest.json")?)?;
    let image = select(package, &images, wanted)?;
    let config_bytes = package.small(&image.config)?;
    let config_digest = digest_of(&config_bytes);
    // The file's name is its digest where Docker wrote it.
    let stem = image.config.trim_end_matches(".json").rsplit('/').next().unwrap_or_default();
    if let Ok(expected) = format!("sha256:{stem}").parse() {
        check_digest(
            &format!("the configuration in {}", package.path.display()),
            &config_bytes,
            &expected,
        )?;
    }
    let config = package.configuration(&config_bytes, image.layers.len())?;
    let mut layers = Vec::new();
    let mut described = Vec::new();
    for (name, diff_id) in image.layers.iter().zip(&config.rootfs.diff_ids) {
        let (layer, media_type) = layer(package, name, *diff_id, tally)?;
        described.push(descriptor(media_type, layer.digest, layer.size));
        layers.push(layer);
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        config: descriptor(
            "application/vnd.oci.image.config.v1+json",
            config_digest,
            config_bytes.len() as u64,
        ),
        layers: described,
    };
    let manifest = serde_json::to_vec(&manifest).expect("strings and numbers become JSON");
    let manifest_digest = digest_of(&manifest);
    // What Docker calls the image's id is its configuration's digest.
    if let Some(&expected) = wanted.digest
        && expected != manifest_digest
        && expected != config_digest
    {
        let what = format!("the image in {}", package.path.display());
        return Err(ImageError::DigestMismatch { what, expected, got: manifest_digest });
    }
    Ok(Chosen {
        manifest,
        manifest_digest,
        config: config_bytes,
        config_digest,
        layers,
        architecture: config.architecture,
        run: run_config(config.config),
    })
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest,
        size,
        annotations: BTreeMap::new(),
        platform: None,
    }
}

fn select<'a>(
    package: &Package,
    images: &'a [DockerImage],
    wanted: Wanted<'_>,
) -> Result<&'a DockerImage, ImageError> {
    let name = |image: &DockerImage| image.repo_tags.first().unwrap_or(&image.config).clone();
    let mut candidates: Vec<&DockerImage> = images.iter().collect();
    if let Some(reference) = wanted.reference {
        candidates.retain(|image| image.repo_tags.iter().any(|tag| same_reference(tag, reference)));
    } else if let (Some(digest), true) = (wanted.digest, images.len() > 1) {
        candidates.retain(|image| image.config.contains(&digest.hex()));
    }
    match candidates[..] {
        [one] => Ok(one),
        _ if images.is_empty() => Err(ImageError::invalid(
            package.path.display().to_string(),
            "is a `docker save` without any image",
        )),
        _ => {
            let choices =
                images.iter().map(|image| (name(image), digest_of(image.config.as_bytes())));
            Err(which(package, wanted, &choices.collect()))
        }
    }
}

/// A layer has no digest of its own here. Plain, it is the diff_id, which the
/// import checks; compressed, it is read through once.
fn layer(
    package: &Package,
    name: &str,
    diff_id: Digest,
    tally: &Tally<'_>,
) -> Result<(Layer, &'static str), ImageError> {
    let mut part = package.part(name)?.ok_or_else(|| package.missing(name))?;
    let fail = |err| ImageError::io("read", &package.path, err);
    let size = part.size();
    let media_type = match Compression::detect(&part.peek().map_err(fail)?) {
        Compression::None => "application/vnd.oci.image.layer.v1.tar",
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    };
    let digest = if media_type.ends_with(".tar") {
        diff_id
    } else {
        let mut hash = Sha256::new();
        let mut chunk = vec![0; 256 * 1024];
        loop {
            tally.check()?;
            let n = io::Read::read(&mut part, &mut chunk).map_err(fail)?;
            if n == 0 {
                break Digest::from_sha256(hash.finalize().into());
            }
            hash.update(&chunk[..n]);
        }
    };
    Ok((Layer { name: name.to_owned(), digest, size, diff_id }, media_type))
}
