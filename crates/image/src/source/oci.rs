//! OCI image layouts (image spec 1.1, image-layout.md).

use std::collections::BTreeMap;

use inn_units::Digest;

use super::json::{Descriptor, Index, Manifest};
use super::{Chosen, Package, Wanted, check_digest, host_architecture, same_reference, which};
use crate::error::ImageError;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The whole name, where `ref.name` is only the tag (containerd, Docker 25).
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Marks BuildKit's attestations, which are no images.
const ATTESTATION: &str = "vnd.docker.reference.type";
/// Indexes inside indexes.
const MAX_NESTING: usize = 4;

pub(super) fn choose(package: &Package, wanted: Wanted<'_>) -> Result<Chosen, ImageError> {
    let index: Index = package.document("index.json", &package.small("index.json")?)?;
    let candidates = select(package, &index, wanted)?;
    let top = candidates.first().ok_or_else(|| {
        ImageError::invalid(
            package.path.display().to_string(),
            "is an OCI layout without any image",
        )
    })?;
    let (descriptor, bytes, manifest) = to_manifest(package, (*top).clone(), wanted.digest)?;
    if let Some(&expected) = wanted.digest
        && expected != descriptor.digest
        && expected != top.digest
    {
        let what = format!("the manifest of {}", package.path.display());
        return Err(ImageError::DigestMismatch { what, expected, got: descriptor.digest });
    }
    let config = blob(package, "the configuration", &manifest.config)?;
    Chosen::assemble(&format!("the image in {}", package.path.display()), (bytes, manifest), config)
}

/// The descriptors that the request can mean; the first is taken, the others
/// have the same digest.
fn select<'a>(
    package: &Package,
    index: &'a Index,
    wanted: Wanted<'_>,
) -> Result<Vec<&'a Descriptor>, ImageError> {
    let mut candidates: Vec<&Descriptor> =
        index.manifests.iter().filter(|one| !one.annotations.contains_key(ATTESTATION)).collect();
    let all = candidates.clone();
    if let Some(reference) = wanted.reference {
        candidates.retain(|one| {
            let named =
                [REF_NAME, CONTAINERD_NAME].iter().filter_map(|key| one.annotations.get(*key));
            named.into_iter().any(|name| same_reference(name, reference))
                || one.digest.to_string() == reference
        });
        if candidates.is_empty() {
            return Err(which(package, wanted, &names(&all)));
        }
    }
    if let Some(digest) = wanted.digest
        && candidates.iter().any(|one| one.digest == *digest)
    {
        candidates.retain(|one| one.digest == *digest);
    }
    let differ = |list: &[&Descriptor]| list.iter().any(|one| one.digest != list[0].digest);
    if differ(&candidates) {
        // The same image for several machines, without an index of its own.
        let fitting: Vec<&Descriptor> =
            candidates.iter().copied().filter(|one| fits(one)).collect();
        if fitting.is_empty() || differ(&fitting) {
            return Err(which(package, Wanted { reference: None, ..wanted }, &names(&candidates)));
        }
        candidates = fitting;
    }
    Ok(candidates)
}

fn names(list: &[&Descriptor]) -> BTreeMap<String, Digest> {
    let name = |one: &Descriptor| {
        let named = one.annotations.get(CONTAINERD_NAME).or_else(|| one.annotations.get(REF_NAME));
        named.cloned().unwrap_or_else(|| one.digest.to_string())
    };
    list.iter().map(|one| (name(one), one.digest)).collect()
}

fn fits(descriptor: &Descriptor) -> bool {
    descriptor.platform.as_ref().is_some_and(|platform| {
        platform.os == "linux" && platform.architecture == host_architecture()
    })
}

/// Follows indexes to a manifest for this host, or to the one with the
/// digest that is asked for.
fn to_manifest(
    package: &Package,
    mut descriptor: Descriptor,
    digest: Option<&Digest>,
) -> Result<(Descriptor, Vec<u8>, Manifest), ImageError> {
    for _ in 0..=MAX_NESTING {
        let bytes = blob(package, "the manifest", &descriptor)?;
        let Some(index) = as_index(&descriptor, &bytes) else {
            let manifest =
                package.document(&format!("the manifest {}", descriptor.digest), &bytes)?;
            return Ok((descriptor, bytes, manifest));
        };
        let named =
            digest.and_then(|digest| index.manifests.iter().find(|one| one.digest == *digest));
        let next = named.or_else(|| index.manifests.iter().find(|one| fits(one)));
        let Some(next) = next else {
            let offered: Vec<String> = index
                .manifests
                .iter()
                .filter_map(|one| one.platform.as_ref())
                .map(|platform| format!("{}/{}", platform.os, platform.architecture))
                .filter(|name| !name.starts_with("unknown"))
                .collect();
            let why = format!(
                "is for {} and this host runs linux/{}; import one that was built for it",
                if offered.is_empty() { "no named platform".into() } else { offered.join(", ") },
                host_architecture()
            );
            return Err(ImageError::invalid(
                format!("the image in {}", package.path.display()),
                why,
            ));
        };
        descriptor = next.clone();
    }
    let why = format!("has indexes nested more than {MAX_NESTING} deep");
    Err(ImageError::invalid(package.path.display().to_string(), why))
}

/// An index, by its type or, where that is missing, by what it holds.
fn as_index(descriptor: &Descriptor, bytes: &[u8]) -> Option<Index> {
    let kind = descriptor.media_type.as_str();
    if kind.contains("image.manifest") || kind.contains("distribution.manifest.v2") {
        return None;
    }
    serde_json::from_slice(bytes).ok()
}

fn blob(package: &Package, what: &str, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
    let bytes = package.small(&blob_name(&descriptor.digest))?;
    check_digest(&format!("{what} in {}", package.path.display()), &bytes, &descriptor.digest)?;
    Ok(bytes)
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
