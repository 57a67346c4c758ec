//! `inn` and the agent that it starts, with simulated machines: everything but
//! the boot. The end-to-end suite has the boots.

mod host;

#[cfg(test)]
mod autostart;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod lives;
#[cfg(test)]
mod service;
#[cfg(test)]
mod tokens;
#[cfg(test)]
mod upgrade;
