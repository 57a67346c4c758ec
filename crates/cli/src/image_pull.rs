//! `inn image pull`, and the pull that a VM's image may need first.

use inn_client::api::{Image, ImagePull, OperationState, Vm, VmCreate};
use inn_client::{Client, ClientError};

use crate::args::{PullArgs, PullWhen};
use crate::context::Context;
use crate::failure::Failure;
use crate::image::follow;
use crate::layers::LayerBars;
use crate::progress::Spinner;
use crate::signals::Interrupts;

pub(crate) async fn pull(context: &Context, args: &PullArgs) -> Result<u8, Failure> {
    let request = ImagePull {
        reference: args.reference.clone(),
        name: args.name.clone(),
        plain_http: args.plain_http,
    };
    let mut interrupts = Interrupts::listen()?;
    let client = context.client().await?;
    let image = bring(context, &client, &request, &mut interrupts).await?;
    context.result(&image, || format!("{} {}\n", image.name, image.id))?;
    Ok(0)
}

/// Pulls an image and shows how it goes on.
async fn bring(
    context: &Context,
    client: &Client,
    request: &ImagePull,
    interrupts: &mut Interrupts,
) -> Result<Image, Failure> {
    let operation = client.pull_image(request).await?;
    let mut bars = LayerBars::start(context, "pulling");
    let show = &mut |progress: &_| bars.update(progress);
    let operation = follow(client, operation, interrupts, "pull", show).await?;
    bars.clear();
    match (operation.state, operation.problem) {
        (OperationState::Succeeded, _) => {}
        (_, Some(problem)) => return Err(ClientError::from(problem).into()),
        (_, None) => {
            let reference = &request.reference;
            return Err(Failure::new(format!("the pull of {reference} did not succeed")));
        }
    }
    let id = operation.result.unwrap_or_default();
    let images = client.images().await?.items;
    // Two names may be one image: the newest is the one that was asked for.
    let mut of_it: Vec<Image> =
        images.into_iter().filter(|image| image.id.to_string() == id).collect();
    if let Some(name) = &request.name
        && let Some(named) = of_it.iter().position(|image| image.name == *name)
    {
        return Ok(of_it.swap_remove(named));
    }
    of_it
        .into_iter()
        .max_by_key(|image| image.created_at)
        .ok_or_else(|| Failure::new(format!("image {} was deleted meanwhile", request.reference)))
}

/// Makes a VM, and pulls its image before if it is to be pulled.
pub(crate) async fn create_vm(
    context: &Context,
    client: &Client,
    (request, when): (&VmCreate, PullWhen),
    spinner: &mut Spinner,
    interrupts: &mut Interrupts,
) -> Result<Vm, Failure> {
    let Some(image) = request.image.as_ref().filter(|_| when != PullWhen::Never) else {
        return Ok(client.create_vm(request).await?);
    };
    let pull = ImagePull { reference: image.clone(), name: None, plain_http: false };
    if when == PullWhen::Always {
        spinner.clear();
        bring(context, client, &pull, interrupts).await?;
        return Ok(client.create_vm(request).await?);
    }
    let missing = match client.create_vm(request).await {
        Err(error) if is_about_the_image(&error) => {
            let sentence = error.to_string();
            if sentence.ends_with('?') { sentence } else { format!("{sentence}.") }
        }
        made => return Ok(made?),
    };
    spinner.clear();
    context.note(&format!("image {image} is not here; pulling it (--pull never forbids that)"));
    bring(context, client, &pull, interrupts).await.map_err(|failure| {
        // Interrupted is no answer to whether there is such an image.
        if failure.code != crate::failure::FAILED {
            return failure;
        }
        Failure::new(format!("{missing} It was not pulled, either: {}", failure.sentence()))
    })?;
    Ok(client.create_vm(request).await?)
}

fn is_about_the_image(error: &ClientError) -> bool {
    error.is_not_found() && error.to_string().starts_with("there is no image ")
}
