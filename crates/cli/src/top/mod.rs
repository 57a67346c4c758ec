//! `inn vm top`: what VMs use, live.
//!
//! ```text
//!   first look ──▶ screen ──tick──▶ look ──▶ drawn ─┐
//!                    ▲  └─ key: sorted anew, drawn ─┤
//!                    └──────────────────────────────┘
//!                    q, Ctrl-C, a signal: screen and terminal as they were
//! ```
//! A look is one request, whose answer has each VM's latest reading. An agent
//! that is away for a while leaves the last picture, and says so above it.

mod rates;
mod view;

use std::io::IsTerminal;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use inn_client::api::Vm;
use inn_client::{Client, StatsQuery};
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::args::{SortArg, TopArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::signals::Interrupts;
use crate::stdin;
use crate::terminal::{self, RawMode, Screen};
use rates::Rates;
use view::{Row, Status};

pub(crate) use rates::between;
pub(crate) use view::{rate, root_disk};

/// Two readings of a guest lie within this, at the node's usual interval.
const TWO_READINGS: Duration = Duration::from_secs(30);
/// How many VMs are asked at a time for what the first table needs.
const AT_ONCE: usize = 16;

/// Ctrl-C, which a terminal in raw mode hands over as it is.
const CTRL_C: u8 = 3;

pub(crate) async fn top(context: &Context, args: &TopArgs) -> Result<u8, Failure> {
    let client = context.client().await?;
    let names = args.names();
    let mut rates = Rates::default();
    if context.json() || args.once || !std::io::stdout().is_terminal() {
        let vms = look(&client, &names).await?;
        learn_rates(&client, &vms, &mut rates).await;
        let rows = rows(&vms, &mut rates, args.sort);
        context.result(&rows, || view::table(&rows, usize::MAX))?;
        return Ok(0);
    }
    let mut interrupts = Interrupts::listen()?;
    // A failure of the first look has the usual screen for its sentence.
    let vms = look(&client, &names).await?;
    let mut live = Live { rows: rows(&vms, &mut rates, args.sort), sort: args.sort, trouble: None };
    let screen = Screen::enter()?;
    let raw = RawMode::enter()?;
    let code = live.watch(&client, args, rates, &mut interrupts).await;
    drop(raw);
    drop(screen);
    code
}

#[derive(Debug)]
struct Live {
    rows: Vec<Row>,
    sort: SortArg,
    /// Why the rows are old.
    trouble: Option<String>,
}

impl Live {
    async fn watch(
        &mut self,
        client: &Client,
        args: &TopArgs,
        mut rates: Rates,
        interrupts: &mut Interrupts,
    ) -> Result<u8, Failure> {
        let names = args.names();
        let mut resized = signal(SignalKind::window_change())
            .map_err(|e| Failure::because("cannot listen for the terminal's size", &e))?;
        let mut keys = stdin::read();
        let mut has_keys = true;
        let mut ticks = tokio::time::interval(args.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        loop {
            self.draw()?;
            tokio::select! {
                // Cancel safe, as ticks are; the look itself is not raced.
                _ = ticks.tick() => {
                    let looked = tokio::select! {
                        // Given up when somebody leaves: it only reads.
                        looked = look(client, &names) => looked,
                        interrupt = interrupts.next() => return Ok(interrupt.exit_code()),
                    };
                    match looked {
                        Ok(vms) => {
                            self.rows = rows(&vms, &mut rates, self.sort);
                            self.trouble = None;
                        }
                        Err(failure) => self.trouble = Some(failure.sentence().to_owned()),
                    }
                }
                // Cancel safe, as channels are.
                typed = keys.recv(), if has_keys => match typed {
                    Some(typed) => {
                        for key in typed {
                            match key {
                                b'q' | b'Q' | CTRL_C => return Ok(0),
                                b'c' | b'C' => self.sort = SortArg::Cpu,
                                b'm' | b'M' => self.sort = SortArg::Memory,
                                b'n' | b'N' => self.sort = SortArg::Name,
                                _ => {}
                            }
                        }
                        view::sort(&mut self.rows, self.sort);
                    }
                    None => has_keys = false,
                },
                // Cancel safe, and only the newest size matters.
                _ = resized.recv() => {}
                // Cancel safe: a signal that came stays to be seen.
                interrupt = interrupts.next() => return Ok(interrupt.exit_code()),
            }
        }
    }

    fn draw(&self) -> Result<(), Failure> {
        let status = Status { sort: self.sort, trouble: self.trouble.as_deref() };
        crate::context::print(view::frame(&self.rows, &status, terminal::size()).as_bytes())
    }
}

/// All VMs, or those named; a name of none is an error.
async fn look(client: &Client, names: &[&str]) -> Result<Vec<Vm>, Failure> {
    let mut vms = client.vms().await?.items;
    let is = |vm: &Vm, name: &str| vm.name.as_str() == name || vm.id.to_string() == name;
    if let Some(missing) = names.iter().find(|name| !vms.iter().any(|vm| is(vm, name))) {
        return Err(Failure::new(format!(
            "there is no VM {missing}; `inn vm list --all` shows what is there"
        )));
    }
    if !names.is_empty() {
        vms.retain(|vm| names.iter().any(|name| is(vm, name)));
    }
    Ok(vms)
}

fn rows(vms: &[Vm], rates: &mut Rates, sort: SortArg) -> Vec<Row> {
    let now = Timestamp::now();
    let mut rows: Vec<_> = vms.iter().map(|vm| Row::new(vm, rates.of(vm), now)).collect();
    view::sort(&mut rows, sort);
    rows
}

/// A single look has one reading of each VM; the node keeps the one before.
/// A VM that does not tell has no rates.
async fn learn_rates(client: &Client, vms: &[Vm], rates: &mut Rates) {
    let query = StatsQuery { last: Some(TWO_READINGS), fresh: false };
    let mut told = stream::iter(vms.iter().filter(|vm| vm.stats.is_some()))
        .map(|vm| async move { (vm, client.stats(&vm.id.to_string(), query).await) })
        .buffer_unordered(AT_ONCE);
    while let Some((vm, stats)) = told.next().await {
        for sample in stats.iter().flat_map(|stats| &stats.samples) {
            rates.learn(vm.id, sample);
        }
    }
}
