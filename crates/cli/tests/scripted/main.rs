//! `inn` as a whole process against a scripted agent: what no real agent can be
//! made to do on demand. It dies in the middle, sends a hostile archive, boots
//! for ever, or answers with 100 VMs.

mod agent;

#[cfg(test)]
mod attaching;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod copies;
#[cfg(test)]
mod guests;
#[cfg(test)]
mod node_events;
mod pulls;
#[cfg(test)]
mod screens;
#[cfg(test)]
mod sessions;
