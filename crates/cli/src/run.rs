//! `inn run`: a VM for one command.
//!
//! ```text
//!   create ──▶ lease (with --rm) and exec, at once ──▶ stream ──▶ ended
//!     │            │ failed, or interrupted while booting            │
//!     ▼            ▼                                                 ▼
//!   nothing     delete the VM                     --rm: delete it; else: it stays
//! ```
//! The lease is the net under `--rm`: whatever ends this program, the agent
//! sees the connection close and deletes the VM.

use inn_client::api::Vm;
use inn_client::api::exec::Status;
use inn_client::{Client, ExecRequest, VmRemoval};

use crate::args::RunArgs;
use crate::boot::{Boot, BootState};
use crate::context::{Context, complain};
use crate::failure::Failure;
use crate::image_pull::create_vm;
use crate::language::{self, Language};
use crate::lifecycle;
use crate::output::Sink;
use crate::progress::Spinner;
use crate::report::ExecReport;
use crate::session::{self, Attach, Ending, Front};
use crate::signals::Interrupts;
use crate::snapshot::begin_from;
use crate::terminal;
use crate::transfer;
use crate::view::phase_name;

pub(crate) async fn run(context: &Context, args: &RunArgs) -> Result<u8, Failure> {
    if let Some(file) = &args.file {
        transfer::check_file(file)?;
    }
    let mut request = args.machine.request()?;
    request.image = args.image.clone();
    request.language = args.language.map(|language| language.name().to_owned());
    request.workload = inn_client::api::Workload::None;
    request.start = true;
    request.lease = args.rm;

    // Before the VM exists, so that no signal can slip in between.
    let mut interrupts = Interrupts::listen()?;
    let client = context.client().await?;
    let mut spinner = Spinner::start(context, "making the VM");
    let vm = match &args.from_snapshot {
        Some(snapshot) => begin_from(&client, snapshot, request.name, args.rm).await?,
        None => {
            let wanted = (&request, args.machine.pull);
            create_vm(context, &client, wanted, &mut spinner, &mut interrupts).await?
        }
    };
    let mut sink = if context.json() { Sink::captured() } else { Sink::direct() };
    let front = Front {
        sink: &mut sink,
        spinner: &mut spinner,
        interrupts: &mut interrupts,
        quiet: context.globals.quiet,
    };
    let ended = attend(&client, &vm, args, front).await;
    spinner.clear();

    let remove = args.rm || matches!(ended, Ok(Ended::NeverUp(_)));
    if remove {
        let removal = VmRemoval { force: true, ..VmRemoval::default() };
        let removed = lifecycle::delete_and_wait(&client, &vm, removal).await;
        // A leased VM goes even if the agent was gone before it could hear us.
        if let (Err(failure), false) = (removed, args.rm) {
            context.note(&format!("VM {} is still there: {}", vm.name, failure.sentence()));
        }
    } else if ended.is_err() {
        context.note(&format!(
            "VM {0} is kept; `inn vm show {0}` says how it is, `inn vm delete {0} --force` removes it",
            vm.name
        ));
    } else {
        context.note(&format!(
            "VM {0} runs on; `inn vm exec {0} -- CMD` runs more in it, `inn vm delete {0} --force` removes it",
            vm.name
        ));
    }
    match ended? {
        Ended::Code(code) => Ok(code),
        Ended::Status(status) => {
            if context.json() {
                let id = vm.id.to_string();
                let report = ExecReport::new(&id, vm.name.as_str(), &status, sink.into_captured());
                context.result(&report, String::new)?;
            }
            if let Some(note) = session::cut(&status) {
                complain(&note);
            }
            session::exit_code(&status, vm.name.as_str())
        }
        Ended::NeverUp(code) => Err(Failure::new(format!(
            "interrupted while VM {} was starting; it is deleted",
            vm.name
        ))
        .with_code(code)),
    }
}

enum Ended {
    Status(Status),
    /// Given up, with the exit code for that.
    Code(u8),
    /// Interrupted before the guest was up, with the exit code for that.
    NeverUp(u8),
}

/// From the VM's creation to the command's end. The lease ends with this.
async fn attend(
    client: &Client,
    vm: &Vm,
    args: &RunArgs,
    front: Front<'_>,
) -> Result<Ended, Failure> {
    let id = vm.id.to_string();
    let attach = Attach { stdin: args.interactive, tty: args.tty };
    let mut exec = ExecRequest {
        command: args.command.clone(),
        timeout: args.timeout,
        stdin: args.interactive,
        tty: args.tty.then(terminal::size),
        image_entrypoint: args.file.is_none(),
        // Its lease ends with the agent.
        once: args.rm,
        ..ExecRequest::default()
    };
    let (mut boot, channel) = if args.file.is_none() && args.out.is_none() {
        // The exec waits in the agent for the guest, so nothing is lost
        // between the guest's first word and the command's start.
        let both =
            async { tokio::join!(follow(client, vm, args.rm), client.lasting_exec(&id, &exec)) };
        tokio::select! {
            // Not cancel safe, and not gone on with after the other arm.
            (boot, channel) = both => (boot?, channel?),
            // Cancel safe: a signal that came stays to be seen.
            interrupt = front.interrupts.next() => {
                return Ok(Ended::NeverUp(interrupt.exit_code()));
            }
        }
    } else {
        let mut boot = follow(client, vm, args.rm).await?;
        if let Some(code) = wait_ready(&mut boot, front.spinner, front.interrupts).await? {
            return Ok(Ended::NeverUp(code));
        }
        prepare(client, vm, args, &mut exec).await?;
        (boot, client.lasting_exec(&id, &exec).await?)
    };
    let ended = match session::drive(channel, attach, &mut boot, front).await? {
        Ending::NeverUp(interrupt) => return Ok(Ended::NeverUp(interrupt.exit_code())),
        Ending::GivenUp(interrupt) => return Ok(Ended::Code(interrupt.exit_code())),
        Ending::Status(status) => Ended::Status(status),
    };
    if let Some(dir) = &args.out {
        transfer::fetch_out(client, &id, dir).await?;
    }
    Ok(ended)
}

async fn follow(client: &Client, vm: &Vm, leased: bool) -> Result<Boot, Failure> {
    if leased {
        Ok(Boot::leased(client.lease(&vm.id.to_string()).await?, vm))
    } else {
        Ok(Boot::settling(client.clone(), vm))
    }
}

/// Waits for the guest; the exit code of an interrupt that came first.
pub(crate) async fn wait_ready(
    boot: &mut Boot,
    spinner: &Spinner,
    interrupts: &mut Interrupts,
) -> Result<Option<u8>, Failure> {
    let mut state = boot.state();
    loop {
        match state {
            BootState::Ready => return Ok(None),
            BootState::Failed(failure) => return Err(failure),
            BootState::Booting(phase) => {
                spinner.say(format!("waiting for the VM ({})", phase_name(phase)));
            }
            BootState::SettingUp(what) => spinner.say(format!("waiting for {what}")),
        }
        tokio::select! {
            // Cancel safe: the newest state is kept.
            next = boot.changed() => state = next,
            // Cancel safe: a signal that came stays to be seen.
            interrupt = interrupts.next() => return Ok(Some(interrupt.exit_code())),
        }
    }
}

/// Puts the file where it belongs and says how it is run.
async fn prepare(
    client: &Client,
    vm: &Vm,
    args: &RunArgs,
    exec: &mut ExecRequest,
) -> Result<(), Failure> {
    let id = vm.id.to_string();
    if args.out.is_some() {
        transfer::make_out(client, &id).await?;
    }
    let Some(file) = &args.file else { return Ok(()) };
    let path = transfer::put_in(client, &id, file).await?;
    exec.workdir = Some(transfer::IN.to_owned());
    if exec.command.is_empty() {
        let spoken = vm.language.as_deref().and_then(Language::of_name);
        exec.command = language::command_for_file(args.language.or(spoken), &path)
            .ok_or_else(|| unknown_language(&path))?;
    }
    Ok(())
}

pub(crate) fn unknown_language(path: &str) -> Failure {
    Failure::usage(format!(
        "nothing says how to run {path}: give the VM a --language, the file an extension such as .py, or a command"
    ))
}
