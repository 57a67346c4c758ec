use inn_units::ImageName;

use crate::args::ImportArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::image::import;
use crate::language::Language;
use crate::script;

static BUILD: &str = include_str!("../../../packaging/languages/build");

/// Makes a language's image and imports it under the name that `--language`
/// looks for unless the configuration says otherwise.
pub(crate) async fn build(
    context: &Context,
    language: Language,
    name: Option<&ImageName>,
) -> Result<u8, Failure> {
    let failed = |e: std::io::Error| Failure::because("no directory for the image", &e);
    let place = tempfile::tempdir().map_err(failed)?;
    let layout = place.path().join("layout");
    let args = vec![
        "--language".into(),
        language.name().into(),
        "--output".into(),
        layout.clone().into_os_string(),
    ];
    let Some(tag) = script::run(&[("script", BUILD)], args).await? else {
        let why = format!(
            "no image of {} was made: the messages above say why; where a registry can be \
             reached there is the public image {}",
            language.name(),
            language.public_image()
        );
        return Err(Failure::new(why));
    };
    let name = match name {
        Some(name) => name.clone(),
        None => tag.parse().map_err(|e| Failure::because("the image has no name", &e))?,
    };
    let args = ImportArgs { path: layout, name, reference: Some(tag), digest: None };
    import(context, &args).await
}
