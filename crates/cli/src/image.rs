use std::time::Duration;

use inn_client::Client;
use inn_client::api::{ImageImport, Operation, OperationState, Progress};

use crate::args::{ImageCommand, ImportArgs, LanguageCommand};
use crate::context::Context;
use crate::disk_pull;
use crate::failure::Failure;
use crate::image_build;
use crate::image_export;
use crate::image_gc;
use crate::image_list;
use crate::image_pull;
use crate::progress::Meter;
use crate::signals::{Interrupt, Interrupts};
use crate::{kernel, language_image};

/// How long one question for progress may hang before it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(10);

pub(crate) async fn image(context: &Context, command: &ImageCommand) -> Result<u8, Failure> {
    match command {
        ImageCommand::Import(args) => import(context, args).await,
        ImageCommand::Pull(args) if args.reference.contains("://") => {
            disk_pull::command(context, &args.reference, args.sha256.as_deref()).await
        }
        ImageCommand::Pull(args) => image_pull::pull(context, args).await,
        ImageCommand::Build(args) => image_build::build(context, args).await,
        ImageCommand::Export(args) => image_export::export(context, args).await,
        ImageCommand::List => image_list::list(context).await,
        ImageCommand::Delete { images } => image_list::delete(context, images).await,
        ImageCommand::Language(LanguageCommand::Build { language, name }) => {
            language_image::build(context, *language, name.as_ref()).await
        }
        ImageCommand::Kernel(command) => kernel::kernel(context, command).await,
        ImageCommand::Gc(args) => image_gc::collect(context, args).await,
    }
}

pub(crate) async fn import(context: &Context, args: &ImportArgs) -> Result<u8, Failure> {
    let shown = args.path.display();
    let path = std::path::absolute(&args.path)
        .map_err(|e| Failure::because(format!("cannot tell where {shown} is"), &e))?;
    // The agent would say the same, but without starting one for it.
    std::fs::metadata(&path).map_err(|e| Failure::because(format!("cannot import {shown}"), &e))?;
    let path = path.to_str().ok_or_else(|| {
        Failure::new(format!("the path {shown} is no UTF-8; rename it or import a link to it"))
    })?;
    let request = ImageImport {
        path: path.to_owned(),
        name: args.name.clone(),
        reference: args.reference.clone(),
        digest: args.digest,
    };
    let mut interrupts = Interrupts::listen()?;
    let client = context.client().await?;
    let operation = client.import_image(&request).await?;
    let mut meter = Meter::start(context, "importing");
    let show = &mut |progress: &Progress| {
        meter.update(&progress.step, progress.done_bytes, progress.total_bytes);
    };
    let operation = follow(&client, operation, &mut interrupts, "import", show).await?;
    meter.clear();
    match (operation.state, operation.problem) {
        (OperationState::Succeeded, _) => {}
        (_, Some(problem)) => return Err(inn_client::ClientError::from(problem).into()),
        (_, None) => return Err(Failure::new(format!("the import of {shown} did not succeed"))),
    }
    let images = client.images().await?.items;
    let id = operation.result.unwrap_or_default();
    // The operation answers with the image's id; the name tells apart two
    // names of one image.
    let image = images
        .iter()
        .find(|image| {
            image.id.to_string() == id && image.name.as_str().starts_with(args.name.as_str())
        })
        .or_else(|| images.iter().find(|image| image.id.to_string() == id));
    match image {
        Some(image) => {
            context.result(image, || format!("{} {}\n", image.name, image.id))?;
            Ok(0)
        }
        None => Err(Failure::new(format!("image {} was deleted meanwhile", args.name))),
    }
}

/// Shows how the operation goes on; the first interrupt cancels it. `what` it
/// is stands in messages.
pub(crate) async fn follow(
    client: &Client,
    mut operation: Operation,
    interrupts: &mut Interrupts,
    what: &str,
    show: &mut dyn FnMut(&Progress),
) -> Result<Operation, Failure> {
    let mut cancelled: Option<Interrupt> = None;
    while operation.state == OperationState::Running {
        if let Some(progress) = &operation.progress {
            show(progress);
        }
        tokio::select! {
            // Safe to cancel: it only asks.
            next = client.wait_operation(operation.id, operation.version, ASK_AGAIN) => {
                operation = next?;
            }
            // Cancel safe: a signal that came stays to be seen.
            interrupt = interrupts.next() => {
                if let Some(first) = cancelled.replace(interrupt) {
                    return Err(interrupted(&format!("the {what} is being cancelled"), first));
                }
                client.cancel_operation(operation.id).await?;
            }
        }
    }
    match cancelled {
        // It may have been done a moment before.
        Some(interrupt) if operation.state != OperationState::Succeeded => {
            Err(interrupted(&format!("the {what} is cancelled, and nothing is made"), interrupt))
        }
        _ => Ok(operation),
    }
}

fn interrupted(what: &str, interrupt: Interrupt) -> Failure {
    Failure::new(format!("interrupted: {what}")).with_code(interrupt.exit_code())
}
