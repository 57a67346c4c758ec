//! What is fuzzed, and what must hold whatever comes. Each function takes one
//! input and panics where a promise is broken; `targets/` hands them to
//! libFuzzer.
//!
//! | Target | Input | Holds |
//! |---|---|---|
//! | `host_bytes`, `guest_bytes` | bytes as they come off the channel | no panic; what is buffered, queued and open stays within its bound |
//! | `host_session`, `guest_session` | an open session, frames of any kind in any order, and calls of the driver's | the same; an error is final |
//! | `both_ends` | two real ends and a channel that cuts, repeats, drops and garbles | a fresh opening always leads to a session that works |
//! | `node_session` | ten requests in flight and what a guest answers to them | the same; every call comes back; what is handed out is within its bounds |
//! | `messages` | bytes of every message that travels inside data | what decodes, encodes to what decodes the same |
//! | `block_sum` | a content in pieces and holes | the sum does not depend on either |

mod both;
mod ends;
mod frames;
mod node;
mod sums;
mod told;

pub use both::both_ends;
pub use ends::{guest_bytes, guest_session, host_bytes, host_session};
pub use node::node_session;
pub use sums::{block_sum, messages};

/// For calls that an end may refuse at any time.
fn may_refuse<T>(_: Result<T, inn_guest_proto::SendError>) {}
