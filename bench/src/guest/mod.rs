//! The guest agent in a Debian beside qemu-ga and ssh in the same one, in the
//! same run and by turns.
//!
//! One VM, which our agent has started: what the others need, two more
//! virtio-serial ports and a network card with a forwarded port, QEMU is given
//! by a program of its name that puts them behind our agent's arguments (see
//! [`machine`]). For what is below the API the agent is ended in between, which
//! leaves the VM running, and the channel is ours.

mod exec;
mod files;
mod flood;
mod idle;
mod machine;
mod ping;
mod port;
mod qga;

use crate::Bench;
use machine::GuestMachine;

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let mut machine = GuestMachine::boot(bench)?;
    let fresh = idle::resident_kib(&machine)?;
    exec::by_turns(bench, &machine)?;
    exec::at_once(bench, &machine)?;
    flood::measure(bench, &machine)?;
    files::by_the_command(bench, &machine)?;
    idle::measure(bench, &machine, fresh)?;
    let channel = machine.take_channel()?;
    exec::below_the_api(bench, &machine, &channel)?;
    ping::measure(bench, &machine, &channel)?;
    files::below_the_api(bench, &machine, &channel)?;
    drop(channel);
    machine.give_channel_back()
}
