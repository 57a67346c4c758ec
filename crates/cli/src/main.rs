//! `inn`: the node agent and its command line.
//!
//! Most invocations are clients that live for milliseconds, so nothing is set
//! up before it is needed: one thread, no configuration file but where the
//! socket's place depends on it, no logging unless asked for.

mod agent;
mod args;
mod attach;
mod autostart;
mod benchmark;
mod boot;
mod commit;
mod console;
mod containerfile;
mod context;
mod copy;
mod create;
mod disk_pull;
mod doctor;
mod events;
mod exec;
mod execs;
mod facts;
mod failure;
mod files;
mod guest;
mod guest_binary;
mod guest_export;
mod guests;
mod image;
mod image_build;
mod image_export;
mod image_gc;
mod image_list;
mod image_pull;
mod kernel;
mod language;
mod language_image;
mod layers;
mod lifecycle;
mod limits;
mod list;
mod logging;
mod logs;
mod network;
mod node;
mod node_usage;
mod output;
mod pack;
mod pipe;
mod place;
mod port;
mod progress;
mod report;
mod retry;
mod run;
mod script;
mod session;
mod show;
mod signals;
mod snapshot;
mod stats;
mod stdin;
mod table;
mod terminal;
mod timeline;
mod token;
mod top;
mod transfer;
mod unpack;
mod upgrade;
mod usage;
mod view;
mod vnc;
mod why;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{
    AgentAction, Cli, Command, Deferred, GuestBinaryCommand, NodeCommand, OutputForm, VmCommand,
};
use crate::context::Context;
use crate::failure::{FAILED, Failure};
use crate::usage::Instead;

fn main() -> ExitCode {
    if let Some(code) = inn_host::log_writer::if_asked() {
        return code;
    }
    if let Some(code) = inn_node::keeper_if_asked() {
        return code;
    }
    if let Some(code) = inn_image::commit::if_asked() {
        return code;
    }
    let code = match invoke() {
        Ok(code) => code,
        Err(failure) => {
            terminal::restore();
            // Nowhere is left to say that stderr is closed.
            let _ = std::io::stderr().lock().write_all(failure.report().as_bytes());
            failure.code
        }
    };
    terminal::restore();
    // Not by returning: a thread that reads our stdin can't be waited for.
    std::process::exit(i32::from(code));
}

fn invoke() -> Result<u8, Failure> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => match usage::explain(error) {
            Instead::Print(help) => {
                return context::print(help.render().to_string().as_bytes()).map(|()| 0);
            }
            Instead::Fail(failure) => return Err(failure),
        },
    };
    match cli.command {
        Command::Agent(Deferred(args))
            if !matches!(args.action, AgentAction::Reload | AgentAction::Upgrade) =>
        {
            agent::run(&cli.globals, &args)
        }
        Command::Openapi => agent::print_openapi(),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "inn", &mut script);
            context::print(&script).map(|()| 0)
        }
        command => {
            logging::begin(&cli.globals)?;
            terminal::restore_on_panic();
            let context = Context::new(cli.globals);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| Failure::because("cannot start", &e))?;
            let outcome = runtime.block_on(dispatch(&context, command));
            runtime.shutdown_background();
            outcome
        }
    }
}

async fn dispatch(context: &Context, command: Command) -> Result<u8, Failure> {
    let has_rows = matches!(&command, Command::Node(Deferred(NodeCommand::Usage(_))));
    if context.globals.output == OutputForm::Csv && !has_rows {
        return Err(Failure::usage("-o csv is for `inn node usage` alone"));
    }
    match command {
        Command::Run(Deferred(args)) => run::run(context, &args).await,
        Command::Image(Deferred(command)) => image::image(context, &command).await,
        Command::Vm(Deferred(command)) => vm(context, command).await,
        Command::Events(args) => events::events(context, &args).await,
        Command::Network(Deferred(command)) => network::network(context, &command).await,
        Command::Snapshot(Deferred(command)) => snapshot::command(context, &command).await,
        Command::Port(Deferred(command)) => port::port(context, &command).await,
        Command::Token(Deferred(command)) => token::token(context, &command).await,
        Command::Guest(Deferred(GuestBinaryCommand::Export { dir })) => {
            guest_export::export(context, &dir)
        }
        Command::Node(Deferred(command)) => node::node(context, &command).await,
        Command::Doctor(args) => doctor::doctor(context, &args).await,
        Command::Agent(Deferred(args)) if args.action == AgentAction::Reload => {
            guests::reload(context).await
        }
        Command::Agent(Deferred(args)) if args.action == AgentAction::Upgrade => {
            upgrade::upgrade(context, &args).await
        }
        Command::Agent(_) | Command::Openapi | Command::Completion { .. } => {
            // Taken care of before there was a runtime.
            Err(Failure::new("this command has no client side").with_code(FAILED))
        }
    }
}

async fn vm(context: &Context, command: VmCommand) -> Result<u8, Failure> {
    match command {
        VmCommand::Create(Deferred(args)) => create::create(context, &args).await,
        VmCommand::Start(args) => lifecycle::start(context, &args).await,
        VmCommand::Stop(args) => lifecycle::stop(context, &args).await,
        VmCommand::Restart(args) => lifecycle::restart(context, &args).await,
        VmCommand::Pause(args) => lifecycle::pause(context, &args).await,
        VmCommand::Resume(args) => lifecycle::resume(context, &args).await,
        VmCommand::Ttl(args) => lifecycle::ttl(context, &args).await,
        VmCommand::Idle(args) => lifecycle::idle(context, &args).await,
        VmCommand::Delete(args) => lifecycle::delete(context, &args).await,
        VmCommand::List(args) => list::list(context, &args).await,
        VmCommand::Show(args) => show::show(context, &args).await,
        VmCommand::Why(args) => why::why(context, &args).await,
        VmCommand::Top(args) => top::top(context, &args).await,
        VmCommand::Stats(args) => stats::stats(context, &args).await,
        VmCommand::Ip(args) => network::ip(context, &args).await,
        VmCommand::Policy(args) => network::policy(context, &args).await,
        VmCommand::Limits(args) => limits::limits(context, &args).await,
        VmCommand::Snapshot(args) => snapshot::snapshot(context, &args).await,
        VmCommand::Fork(args) => snapshot::fork(context, &args).await,
        VmCommand::Receipt(args) => snapshot::receipt(context, &args).await,
        VmCommand::Commit(args) => commit::commit(context, &args).await,
        VmCommand::Run(args) => exec::vm_run(context, &args).await,
        VmCommand::Exec(args) => exec::exec(context, &args).await,
        VmCommand::Execs(args) => execs::execs(context, &args).await,
        VmCommand::Attach(args) => attach::attach(context, &args).await,
        VmCommand::Kill(args) => execs::kill(context, &args).await,
        VmCommand::Logs(args) => logs::logs(context, &args).await,
        VmCommand::Console(args) => console::console(context, &args).await,
        VmCommand::Vnc(args) => vnc::vnc(context, &args).await,
        VmCommand::Cp(args) => copy::copy(context, &args).await,
        VmCommand::Files(command) => files::files(context, &command).await,
        VmCommand::Guest(command) => guest::guest(context, &command).await,
        VmCommand::Clean(args) => lifecycle::clean(context, &args).await,
    }
}
