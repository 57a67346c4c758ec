//! The agent end to end with simulated machines, over its real unix socket.

mod access;
mod agent;
mod audit;
mod bounds;
mod client;
mod cloud_init;
mod commit;
mod disk_full;
mod disk_images;
mod drain;
mod ends;
mod events;
mod execs;
mod fairness;
mod files;
mod foreign;
mod forwards;
mod full;
mod guests;
mod hold;
mod image;
mod image_cache;
mod image_export;
mod interactive;
mod kernels;
mod keys;
mod lasting;
mod life;
mod limits;
mod lists;
mod machine;
mod mishaps;
mod networks;
mod networks_at_random;
mod networks_mended;
mod pause;
mod pull;
mod pull_policy;
mod real_guest;
mod registry;
mod replace;
mod requests;
mod resource_limits;
mod restarts;
mod room;
mod stats;
mod stream;
mod swagger;
mod tls;
mod ttl;
mod websockets;
mod why;

use std::time::Duration;

/// Far beyond what anything here takes, on a host however busy.
const PATIENCE: Duration = Duration::from_secs(60);
