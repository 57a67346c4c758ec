//! What the repository does to itself: `cargo xtask --help`.

mod bench;
mod files;
mod fuzz;
mod layers;
mod printed;
mod proto;
mod workspace;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Chores of the repository", disable_help_subcommand = true)]
struct Xtask {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fail on a dependency that points up, or on I/O in a pure crate.
    CheckLayers,
    /// Fail on files past 800 lines and on names that say nothing.
    CheckFiles,
    /// Write docs/openapi.json from the agent's routes.
    Openapi {
        /// Only compare, and fail on a difference.
        #[arg(long)]
        check: bool,
    },
    /// Write the example configuration and its documentation from the keys.
    Config {
        /// Only compare, and fail on a difference.
        #[arg(long)]
        check: bool,
    },
    /// Write the guest channel's messages from their proto files.
    Proto {
        /// Only compare, and fail on a difference.
        #[arg(long)]
        check: bool,
    },
    /// Fuzz both ends of the guest channel: see docs/fuzzing.md.
    Fuzz(fuzz::FuzzArgs),
    /// Build for release and measure against the raw thing.
    #[command(disable_help_flag = true)]
    Bench {
        /// `--help` shows what it takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    match Xtask::parse().task {
        Task::CheckLayers => layers::check(),
        Task::CheckFiles => files::check(),
        Task::Openapi { check } => printed::api(check),
        Task::Config { check } => printed::config(check),
        Task::Proto { check } => proto::run(check),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Bench { args } => bench::run(&args),
    }
}
