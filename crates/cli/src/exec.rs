//! `inn vm exec` and `inn vm run`: commands in VMs that are there, in one as
//! if it were here, in many side by side.

use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use inn_client::api::{ExecCreate, ExecInfo};
use inn_client::{Client, ExecRequest};

use crate::args::{ExecArgs, ProgramArgs, VmRunArgs, VmSelection, VmTargets};
use crate::boot::Boot;
use crate::context::{Context, complain};
use crate::failure::{FAILED, Failure};
use crate::language::{self, Language};
use crate::output::Sink;
use crate::progress::Spinner;
use crate::report::ExecReport;
use crate::run::unknown_language;
use crate::session::{self, Attach, Ending, Front};
use crate::signals::Interrupts;
use crate::terminal;
use crate::transfer;

/// What to run, as far as it is the same for every VM.
#[derive(Debug)]
struct Work {
    what: What,
    file: Option<PathBuf>,
    out: Option<PathBuf>,
    request: ExecRequest,
    attach: Attach,
    /// Whether the command is left to itself.
    detach: bool,
    /// No notes.
    quiet: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Argv(Vec<String>),
    /// A line for the guest's shell.
    Shell(String),
    /// The file, by its language's interpreter.
    File,
    Hello,
}

pub(crate) async fn exec(context: &Context, args: &ExecArgs) -> Result<u8, Failure> {
    let what = if args.hello {
        Some(What::Hello)
    } else if args.command.is_empty() {
        None
    } else {
        Some(What::Argv(args.command.clone()))
    };
    let mut work = Work::new(&args.program, what)?;
    work.attach = Attach { stdin: args.interactive, tty: args.tty };
    work.request.stdin = args.interactive;
    work.request.user = args.user.clone();
    if args.workdir.is_some() {
        work.request.workdir = args.workdir.clone();
    }
    work.request.output_limit = args.output_limit.map(|limit| limit.get());
    work.detach = args.detach;
    work.run_in(context, &args.vms).await
}

pub(crate) async fn vm_run(context: &Context, args: &VmRunArgs) -> Result<u8, Failure> {
    let mut work = Work::new(&args.program, None)?;
    work.request.workdir = Some(transfer::IN.to_owned());
    work.run_in(context, &args.vms).await
}

impl Work {
    fn new(program: &ProgramArgs, what: Option<What>) -> Result<Self, Failure> {
        let what = match (what, &program.cmd, &program.file) {
            (Some(what), _, _) => what,
            (None, Some(line), _) => What::Shell(line.clone()),
            (None, None, Some(_)) => What::File,
            (None, None, None) => {
                return Err(Failure::usage(
                    "there is nothing to run: give --cmd STRING, --file PATH or -- ARGV",
                ));
            }
        };
        if let Some(file) = &program.file {
            transfer::check_file(file)?;
        }
        let request = ExecRequest {
            env: program.env.clone(),
            timeout: program.timeout,
            workdir: program.file.is_some().then(|| transfer::IN.to_owned()),
            ..ExecRequest::default()
        };
        Ok(Self {
            what,
            file: program.file.clone(),
            out: program.out.clone(),
            request,
            attach: Attach::default(),
            detach: false,
            quiet: false,
        })
    }

    async fn run_in(mut self, context: &Context, vms: &VmSelection) -> Result<u8, Failure> {
        let targets = vms.targets();
        let several = match &targets {
            VmTargets::All => true,
            VmTargets::Named(names) => names.len() > 1,
        };
        if several && (self.attach.stdin || self.attach.tty) {
            return Err(Failure::usage("-i and -t are for one VM, since there is one stdin"));
        }
        self.request.tty = self.attach.tty.then(terminal::size);
        self.quiet = context.globals.quiet;
        let client = context.client().await?;
        let names = match targets {
            VmTargets::Named(names) => names,
            VmTargets::All => running(&client).await?,
        };
        if self.detach {
            self.leave(context, &client, &names).await
        } else if several {
            self.fan_out(context, &client, &names).await
        } else {
            let name = names.first().ok_or_else(|| Failure::usage("a VM is missing"))?;
            self.run_alone(context, &client, name).await
        }
    }

    async fn run_alone(&self, context: &Context, client: &Client, vm: &str) -> Result<u8, Failure> {
        let mut spinner = Spinner::start(context, format!("preparing {vm}"));
        let mut sink = if context.json() { Sink::captured() } else { Sink::direct() };
        let ending = self.one(client, vm, &mut sink, &mut spinner, self.out.as_deref()).await?;
        if context.json() {
            let report = report(client, vm, &ending, sink).await?;
            context.result(&report, String::new)?;
        }
        code_of(&ending, vm)
    }

    /// Starts the command everywhere and prints what it can be found by: its id
    /// alone for one VM, after the VM's name for several.
    async fn leave(
        &self,
        context: &Context,
        client: &Client,
        names: &[String],
    ) -> Result<u8, Failure> {
        let mut started: Vec<ExecInfo> = Vec::new();
        let mut failed = 0;
        for name in names {
            match self.start(client, name).await {
                Ok(info) => {
                    if !context.json() {
                        let line = match names.len() {
                            1 => format!("{}\n", info.id),
                            _ => format!("{name} {}\n", info.id),
                        };
                        crate::context::print(line.as_bytes())?;
                    }
                    started.push(info);
                }
                Err(failure) if names.len() == 1 => return Err(failure),
                Err(failure) => {
                    failed += 1;
                    complain(&format!("{name}: {}", failure.sentence()));
                }
            }
        }
        match started.as_slice() {
            [alone] if context.json() && names.len() == 1 => context.result(alone, String::new)?,
            all if context.json() => context.result(&all, String::new)?,
            _ => {}
        }
        Ok(if failed > 0 { FAILED } else { 0 })
    }

    async fn start(&self, client: &Client, vm: &str) -> Result<ExecInfo, Failure> {
        let request = self.prepared(client, vm).await?;
        let create = ExecCreate {
            command: request.command,
            shell: request.shell,
            env: request.env.into_iter().collect(),
            workdir: request.workdir,
            user: request.user,
            timeout: request.timeout.map(|limit| format!("{}ms", limit.as_millis())),
            output_limit_bytes: request.output_limit,
            retain_bytes: None,
            stdin: self.attach.stdin,
            tty: self.attach.tty,
        };
        Ok(client.create_exec(vm, &create).await?)
    }

    /// The request as it is for one VM, whose file is in its place then.
    async fn prepared(&self, client: &Client, vm: &str) -> Result<ExecRequest, Failure> {
        let placed = match &self.file {
            Some(file) => Some(transfer::put_in(client, vm, file).await?),
            None => None,
        };
        let mut request = self.request.clone();
        match &self.what {
            What::Argv(argv) => request.command = argv.clone(),
            What::Shell(line) => request.shell = Some(line.clone()),
            What::File | What::Hello => {
                let spoken = client.vm(vm).await?.language;
                let language = spoken.as_deref().and_then(Language::of_name);
                request.command = match placed {
                    Some(path) => language::command_for_file(language, &path)
                        .ok_or_else(|| unknown_language(&path))?,
                    None => language.map_or_else(language::shell_hello, Language::hello),
                };
            }
        }
        Ok(request)
    }

    async fn fan_out(
        &self,
        context: &Context,
        client: &Client,
        names: &[String],
    ) -> Result<u8, Failure> {
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let mut running: FuturesUnordered<_> = names
            .iter()
            .enumerate()
            .map(|(index, name)| async move {
                let mut sink = if context.json() {
                    Sink::captured()
                } else {
                    Sink::labelled(name, width, index)
                };
                // Nothing spins beside the lines of others.
                let mut spinner = Spinner::silent();
                let out = self.out.as_ref().map(|dir| dir.join(name));
                let ended = self.one(client, name, &mut sink, &mut spinner, out.as_deref()).await;
                (index, name, ended, sink)
            })
            .collect();
        let mut reports: Vec<(usize, ExecReport)> = Vec::new();
        let mut failed: Vec<(usize, String)> = Vec::new();
        while let Some((index, name, ended, sink)) = running.next().await {
            let code = match &ended {
                Ok(ending) => code_of(ending, name),
                Err(failure) => Err(failure.clone()),
            };
            match code {
                Ok(0) => {}
                Ok(code) => failed.push((index, format!("{name} (exit code {code})"))),
                Err(failure) => failed.push((index, format!("{name} ({})", failure.sentence()))),
            }
            if context.json() {
                let report = match &ended {
                    Ok(ending) => report(client, name, ending, sink).await?,
                    Err(failure) => ExecReport::failed(name, failure),
                };
                reports.push((index, report));
            }
        }
        if context.json() {
            reports.sort_by_key(|(index, _)| *index);
            let reports: Vec<_> = reports.into_iter().map(|(_, report)| report).collect();
            context.result(&reports, String::new)?;
        }
        if failed.is_empty() {
            return Ok(0);
        }
        failed.sort_by_key(|(index, _)| *index);
        let list: Vec<_> = failed.into_iter().map(|(_, text)| text).collect();
        complain(&format!("failed in {} of {} VMs: {}", list.len(), names.len(), list.join(", ")));
        Ok(FAILED)
    }

    /// Files in, the command, files out.
    async fn one(
        &self,
        client: &Client,
        vm: &str,
        sink: &mut Sink,
        spinner: &mut Spinner,
        out: Option<&Path>,
    ) -> Result<Ending, Failure> {
        if out.is_some() {
            transfer::make_out(client, vm).await?;
        }
        let request = self.prepared(client, vm).await?;
        let channel = client.lasting_exec(vm, &request).await?;
        spinner.clear();
        let mut interrupts = Interrupts::listen()?;
        let front = Front { sink, spinner, interrupts: &mut interrupts, quiet: self.quiet };
        let ending = session::drive(channel, self.attach, &mut Boot::ready(), front).await?;
        if let (Some(dir), Ending::Status(_)) = (out, &ending) {
            transfer::fetch_out(client, vm, dir).await?;
        }
        if let Ending::Status(status) = &ending
            && let Some(note) = session::cut(status)
        {
            complain(&format!("{vm}: {note}"));
        }
        Ok(ending)
    }
}

/// The names of the VMs that a command can run in.
async fn running(client: &Client) -> Result<Vec<String>, Failure> {
    let vms = client.vms().await?.items;
    let names: Vec<String> = vms
        .iter()
        .filter(|vm| vm.phase == inn_client::api::Phase::Running)
        .map(|vm| vm.name.to_string())
        .collect();
    if names.is_empty() {
        return Err(Failure::new("no VM is running; `inn vm list --all` shows what is there"));
    }
    Ok(names)
}

fn code_of(ending: &Ending, vm: &str) -> Result<u8, Failure> {
    match ending {
        Ending::Status(status) => session::exit_code(status, vm),
        Ending::GivenUp(interrupt) | Ending::NeverUp(interrupt) => Ok(interrupt.exit_code()),
    }
}

async fn report(
    client: &Client,
    vm: &str,
    ending: &Ending,
    sink: Sink,
) -> Result<ExecReport, Failure> {
    match ending {
        Ending::Status(status) => {
            let known = client.vm(vm).await?;
            let (id, name) = (known.id.to_string(), known.name.to_string());
            Ok(ExecReport::new(&id, &name, status, sink.into_captured()))
        }
        Ending::GivenUp(interrupt) | Ending::NeverUp(interrupt) => {
            Ok(ExecReport::failed(vm, &Failure::new(format!("ended by {}", interrupt.name()))))
        }
    }
}
