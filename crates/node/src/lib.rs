//! The node agent.

pub mod guest;
