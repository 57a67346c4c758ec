use inn_client::VmRemoval;

use crate::args::CreateArgs;
use crate::boot::Boot;
use crate::context::Context;
use crate::disk_pull;
use crate::failure::Failure;
use crate::image_pull::create_vm;
use crate::lifecycle;
use crate::progress::Spinner;
use crate::run::wait_ready;
use crate::signals::Interrupts;
use crate::snapshot::begin_from;

/// `inn vm create`: prints the VM's name once it is up. An interrupt before
/// that deletes what was made; a VM that failed stays, to be looked at.
pub(crate) async fn create(context: &Context, args: &CreateArgs) -> Result<u8, Failure> {
    let mut request = args.machine.request()?;
    args.source.put_in(&mut request)?;
    args.cloud_init.put_in(&mut request)?;
    request.restart_policy = args.restart_policy.into();
    request.command = (!args.command.is_empty()).then(|| args.command.clone());
    request.start = !args.no_start;

    let mut interrupts = Interrupts::listen()?;
    let client = context.client().await?;
    if let (Some(place), Some(disk)) = (&args.source.disk_image, &mut request.disk_image)
        && disk_pull::is_pulled(place)
    {
        let pull = disk_pull::request(disk.url.clone(), args.source.sha256.as_deref())?;
        disk.sha256 = Some(disk_pull::pull(context, &client, &pull, &mut interrupts).await?);
    }
    let mut spinner = Spinner::start(context, "making the VM");
    let mut vm = match &args.source.from_snapshot {
        Some(snapshot) => begin_from(&client, snapshot, request.name.clone(), false).await?,
        None => {
            let wanted = (&request, args.machine.pull);
            create_vm(context, &client, wanted, &mut spinner, &mut interrupts).await?
        }
    };
    if args.no_start {
        vm = lifecycle::settle(&client, vm).await?;
    } else {
        let mut boot = Boot::settling(client.clone(), &vm);
        if let Some(code) = wait_ready(&mut boot, &spinner, &mut interrupts).await? {
            let removal = VmRemoval { force: true, ..VmRemoval::default() };
            lifecycle::delete_and_wait(&client, &vm, removal).await?;
            return Err(Failure::new(format!(
                "interrupted while VM {} was starting; it is deleted",
                vm.name
            ))
            .with_code(code));
        }
        vm = client.vm(&vm.id.to_string()).await?;
    }
    spinner.clear();
    context.result(&vm, || format!("{}\n", vm.name))?;
    Ok(0)
}
