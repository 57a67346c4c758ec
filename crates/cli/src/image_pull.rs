//! `inn image pull`, and the pull that a VM's image may need first.

use inn_client::api::{Image, ImagePull, OperationState, Vm, VmCreate};
use inn_client::{Client, ClientError};

use crate::args::{PullArgs, PullWhen};
use crate::context::Context;
use crate::failure::Failure;
use crate::image::follow;
use crate::language::Language;
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
    let Some(pull) = pull_for(request).filter(|_| when != PullWhen::Never) else {
        return Ok(client.create_vm(request).await?);
    };
    if when == PullWhen::Always {
        spinner.clear();
        bring(context, client, &pull, interrupts).await?;
        return Ok(client.create_vm(request).await?);
    }
    let missing = match client.create_vm(request).await {
        Err(error) if is_about_the_image(&error, &pull) => {
            let sentence = error.to_string();
            if sentence.ends_with('?') { sentence } else { format!("{sentence}.") }
        }
        made => return Ok(made?),
    };
    spinner.clear();
    context.note(&format!(
        "image {} is not here; pulling {} (--pull never forbids that)",
        pull.name.as_ref().map_or(pull.reference.as_str(), |name| name.as_str()),
        if pull.name.is_some() { &pull.reference } else { "it" },
    ));
    bring(context, client, &pull, interrupts).await.map_err(|failure| {
        // Interrupted is no answer to whether there is such an image.
        if failure.code != crate::failure::FAILED {
            return failure;
        }
        let why = format!("{missing} It was not pulled, either: {}", failure.sentence());
        let language = request.language.as_deref().filter(|_| pull.name.is_some());
        Failure::new(match language {
            Some(language) => format!(
                "{why}; `inn image language build {language}` makes one from the distribution's \
                 packages"
            ),
            None => why,
        })
    })?;
    Ok(client.create_vm(request).await?)
}

/// What may have to be pulled: the image that is named, or the public one of the
/// language, under the name by which `--language` looks for it.
fn pull_for(request: &VmCreate) -> Option<ImagePull> {
    if let Some(image) = &request.image {
        return Some(ImagePull { reference: image.clone(), name: None, plain_http: false });
    }
    let language = Language::of_name(request.language.as_deref()?)?;
    Some(ImagePull {
        reference: language.public_image().to_owned(),
        name: Some(language.image_name().parse().ok()?),
        plain_http: false,
    })
}

/// Of a language whose image the configuration calls otherwise, nothing is
/// pulled: it would not be found under that name.
fn is_about_the_image(error: &ClientError, pull: &ImagePull) -> bool {
    let missing = match &pull.name {
        None => "there is no image ".to_owned(),
        Some(name) => format!("there is no image {name} of the language "),
    };
    error.is_not_found() && error.to_string().starts_with(&missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_is_pulled_under_the_name_that_is_looked_for() {
        let of = |request: VmCreate| {
            pull_for(&request).map(|pull| (pull.reference, pull.name.map(|name| name.to_string())))
        };
        let image = |image: &str| VmCreate { image: Some(image.into()), ..VmCreate::default() };
        assert_eq!(of(image("debian:12")), Some(("debian:12".into(), None)));
        let language =
            |language: &str| VmCreate { language: Some(language.into()), ..VmCreate::default() };
        let go = ("docker.io/library/golang:bookworm".to_owned(), Some("golang".to_owned()));
        assert_eq!(of(language("golang")), Some(go));
        assert_eq!(of(language("javascript")).unwrap().1.as_deref(), Some("node"));
        assert_eq!(of(language("cobol")), None);
        assert_eq!(of(VmCreate::default()), None);
    }
}
