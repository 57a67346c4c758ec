//! The kernel's netlink sockets (netlink(7)): messages, attributes, who
//! answers, and what an answer says.
//!
//! ```text
//!   order ──▶ kernel ──▶ ACK, or a number and often a sentence
//!   dump  ──▶ kernel ──▶ message, message, … DONE   (again, if it changed
//!                                                    while it was told)
//!   batch ──▶ kernel ──▶ all of it at once, or none
//!   group ◀── kernel     whatever anybody changes
//! ```
//!
//! [`route`] knows links, addresses and routes, [`diag`] sockets; nf_tables'
//! messages are in `inn-net`. Numbers are in this machine's order but for netfilter's, which
//! are big-endian: hence `put_be32` beside `put_u32`.

mod attributes;
pub mod diag;
mod error;
mod message;
pub mod route;
mod socket;

pub use attributes::{Payload, attributes, be16, be32, be64, text, word};
pub use error::{BatchError, Error};
pub use message::{ACK, APPEND, CREATE, DUMP, EXCLUSIVE, Header, Message, REPLACE, messages};
pub use socket::{Protocol, Socket};
