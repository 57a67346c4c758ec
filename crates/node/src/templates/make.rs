//! Makes a template: a machine that is nobody's boots, does once what a start
//! asks of it, is saved, and ends.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use inn_domain::VmSpec;
use inn_fail_point::{Point, fail_point};
use inn_store::spec_to_text;
use jiff::Timestamp;

use super::key::TemplateKey;
use super::{Ready, Templates};
use crate::error::Chain;
use crate::image_cache::make_room_for;
use crate::node::Node;
use crate::snapshots::{self, Held, Manifest, Scratch};
use crate::vm::{Capture, Draft};

/// A start that takes longer gives its turn to others.
const TURN: Duration = Duration::from_secs(120);

/// From nothing; what fails leaves nothing.
pub(super) async fn make(
    node: &Arc<Node>,
    key: TemplateKey,
    spec: VmSpec,
) -> Result<Ready, String> {
    // As one that starts.
    let _turn = node.starts.take(TURN, |_| {}).await;
    // It dies with the agent.
    let spec = VmSpec { lease: true, ..spec };
    let mut draft = Draft::new(node, spec.clone(), None).map_err(|error| error.to_string())?;
    let made = save(node, key, &spec, &mut draft).await;
    draft.end().await;
    made
}

async fn save(
    node: &Arc<Node>,
    key: TemplateKey,
    spec: &VmSpec,
    draft: &mut Draft,
) -> Result<Ready, String> {
    let templates: &Templates = &node.templates;
    draft.prepare().await?;
    fail_point(Point::TemplatePrepared);
    let id = snapshots::new_id().map_err(words)?;
    let unfinished = Scratch(templates.unfinished(id));
    make_room_for(node, &unfinished.0, "a template", Some(spec.memory)).await;
    snapshots::make(&unfinished.0).map_err(words)?;
    let capture = draft.capture(&unfinished.0).await.map_err(words)?;
    fail_point(Point::TemplateCaught);
    let text = spec_to_text(spec).map_err(words)?;
    let made_at = Timestamp::now();
    let manifest = Manifest {
        format: Manifest::format(),
        id,
        name: format!("template-{}", &key.to_string()[..12]).parse().map_err(words)?,
        created_at: made_at,
        written_by: env!("CARGO_PKG_VERSION").to_owned(),
        vm: spec.name.clone(),
        vm_id: draft.id(),
        made_by: capture.made_by.clone(),
        spec: serde_json::from_str(&text).map_err(words)?,
        cmdline: capture.boot.as_ref().map(|boot| boot.cmdline.clone()).unwrap_or_default(),
        between_frames: capture.between_frames,
        parts: Vec::new(),
        root_disk: None,
        template: Some(key.to_string()),
    };
    let directory = templates.directory_of(id);
    let (from, to, closing) = (unfinished.0.clone(), directory.clone(), node.closing.clone());
    let written = tokio::task::spawn_blocking(move || {
        let written = snapshots::write(manifest, &capture, (&from, &to), &closing);
        written.map(|(manifest, _)| (manifest, capture))
    });
    let written = written.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    let (manifest, capture) = written.map_err(words)?;
    fail_point(Point::TemplateNamed);
    let Capture { saved, made_by, boot, between_frames } = capture;
    let disk = directory.join(snapshots::DISK);
    let held = Arc::new(Held {
        id,
        saved,
        made_by,
        disk,
        persist: None,
        boot,
        between_frames,
        _scratch: None,
    });
    let stored = manifest.stored();
    Ok(Ready { id, made_at, directory, stored, held: Some(held) })
}

#[allow(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn words(error: impl std::error::Error + 'static) -> String {
    Chain(&error).to_string()
}
