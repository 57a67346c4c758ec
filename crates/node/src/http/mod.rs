//! The REST API, on a unix socket and over TCP.
//!
//! ```text
//!   door ─▶ auth ─▶ extract ─▶ handler ─▶ convert ─▶ Node, VmHandle
//!                   └───────┴──────────┴─▶ problem (RFC 9457), whatever fails
//! ```
//!
//! Wire types ([`inn_api`]) and domain types meet in [`convert`] and nowhere
//! else. A change is accepted with 202 and its generation; `?wait=` holds the
//! answer until the VM has settled.

mod audit;
mod auth;
mod bearer;
mod benchmark;
mod connections;
mod console;
mod convert;
mod disk_images;
mod document;
mod door;
mod events;
mod exec;
mod extract;
mod files;
mod guest;
mod idempotency;
mod image_cache;
mod image_export;
mod image_pull;
mod images;
mod kernels;
mod lease;
mod limits;
mod log_reader;
mod logs;
mod metrics;
mod networks;
mod node_facts;
mod node_info;
mod node_life;
mod operations;
mod pace;
mod paging;
mod ports;
mod problem;
mod scope;
mod serve;
mod shared_io;
mod snapshots;
mod stats;
mod swagger;
mod tls;
mod tokens;
mod traces;
mod until;
mod usage;
mod vm_commit;
mod vm_pause;
mod vms;
mod vnc;
mod why;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::node::Node;

pub(crate) use auth::GROUP;
pub use document::openapi;
#[cfg(test)]
pub(crate) use serve::Api;
pub(crate) use serve::serve;
pub(crate) use tls::{Tls, TlsError};

/// The largest JSON body: a VM with a great environment has some KiB.
const JSON_LIMIT: usize = 1 << 20;

#[derive(Clone, Debug)]
pub(crate) struct ApiState {
    pub(crate) node: Arc<Node>,
    pub(crate) replays: Arc<idempotency::Replays>,
    pub(crate) uploads: Arc<files::uploads::Uploads>,
    tls: Option<Arc<tls::Tls>>,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Innkeeper",
        description = "The node agent's API. Sizes are bytes, times RFC 3339 UTC, durations \
                       texts such as 30s or 500ms. Errors are problem+json (RFC 9457) with a \
                       stable `code`."
    ),
    components(schemas(inn_api::Problem, inn_api::LeaseEvent, inn_api::FileChange, inn_api::Event, inn_api::EventGap)),
    security((), ("token" = []))
)]
struct Document;

fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(node_info::health))
        .routes(routes!(node_info::node))
        .routes(routes!(node_info::snapshot))
        .routes(routes!(usage::usage))
        .routes(routes!(metrics::metrics))
        .routes(routes!(usage::verify_usage))
        .routes(routes!(node_facts::node_resources))
        .routes(routes!(benchmark::start, benchmark::show))
        .routes(routes!(node_facts::examine_node))
        .routes(routes!(node_info::drain_node))
        .routes(routes!(node_info::undrain_node))
        .routes(routes!(node_info::reap_orphans))
        .routes(routes!(node_life::reload_node))
        .routes(routes!(node_life::shutdown_guests))
        .routes(routes!(node_life::start_guests))
        .routes(routes!(node_life::upgrade))
        .routes(routes!(vms::list, vms::create))
        .routes(routes!(vms::show, vms::delete))
        .routes(routes!(vms::start))
        .routes(routes!(vms::stop))
        .routes(routes!(vms::restart))
        .routes(routes!(vms::limits::set_limits))
        .routes(routes!(vms::policy::set_policy))
        .routes(routes!(vms::address::address, vms::address::set_address))
        .routes(routes!(vms::set_ttl))
        .routes(routes!(vms::idle::set_idle))
        .routes(routes!(vm_commit::commit))
        .routes(routes!(vm_pause::pause))
        .routes(routes!(vm_pause::resume))
        .routes(routes!(snapshots::take_snapshot))
        .routes(routes!(snapshots::fork_vm))
        .routes(routes!(snapshots::receipt))
        .routes(routes!(snapshots::list_snapshots))
        .routes(routes!(snapshots::show_snapshot, snapshots::delete_snapshot))
        .routes(routes!(snapshots::fork_snapshot))
        .routes(routes!(snapshots::export_snapshot))
        .routes(routes!(snapshots::import_snapshot))
        .routes(routes!(exec::exec))
        .routes(routes!(lease::lease))
        .routes(routes!(console::console))
        .routes(routes!(vnc::vnc, vnc::set_password))
        .routes(routes!(logs::logs))
        .routes(routes!(stats::stats))
        .routes(routes!(why::why))
        .merge(guests())
        .routes(routes!(events::events))
        .routes(routes!(images::list))
        .routes(routes!(images::import))
        .routes(routes!(disk_images::list, disk_images::pull))
        .routes(routes!(disk_images::delete))
        .routes(routes!(image_cache::collect_images))
        .routes(routes!(image_pull::pull))
        .routes(routes!(image_export::export))
        .routes(routes!(images::show, images::delete))
        .merge(networks())
        .routes(routes!(kernels::list_kernels))
        .routes(routes!(kernels::set_default_kernel))
        .routes(routes!(operations::show, operations::cancel))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .layer(DefaultBodyLimit::max(JSON_LIMIT))
}

fn networks() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(networks::list_networks, networks::create_network))
        .routes(routes!(networks::show_network, networks::delete_network))
        .routes(routes!(networks::network_plan))
        .routes(routes!(ports::list_ports, ports::create_ports))
        .routes(routes!(ports::delete_port))
        .routes(routes!(ports::restore_ports))
}

/// What goes through the guest's agent.
fn guests() -> OpenApiRouter<ApiState> {
    use exec::detached;
    use files::{change, look, read, watch, write};
    use guest::{disks, identity, network};

    OpenApiRouter::new()
        .routes(routes!(detached::list_execs, detached::create_exec))
        .routes(routes!(detached::show_exec, detached::delete_exec))
        .routes(routes!(detached::attach_exec))
        .routes(routes!(detached::signal_exec))
        .routes(routes!(read::read_file, read::head_file, write::write_file, change::remove_file))
        .routes(routes!(look::file_info))
        .routes(routes!(look::list_files))
        .routes(routes!(look::upload_state, look::drop_upload))
        .routes(routes!(change::make_dir))
        .routes(routes!(change::rename_file))
        .routes(routes!(change::symlink_file))
        .routes(routes!(change::set_file_attributes))
        .routes(routes!(watch::watch_files))
        .routes(routes!(identity::set_password))
        .routes(routes!(identity::set_hostname))
        .routes(routes!(identity::set_clock))
        .routes(routes!(identity::freeze))
        .routes(routes!(identity::thaw))
        .routes(routes!(identity::ssh_keys, identity::set_ssh_keys))
        .routes(routes!(network::set_network))
        .routes(routes!(disks::grow_disk))
        .routes(routes!(disks::mount_disk))
        .routes(routes!(disks::unmount_disk))
}

fn router(state: ApiState) -> Router {
    let (router, _) = routes().split_for_parts();
    router
        .merge(swagger::ui())
        .fallback(problem::no_route)
        .method_not_allowed_fallback(problem::no_method)
        .layer(middleware::from_fn_with_state(state.clone(), idempotency::replay))
        .with_state(state)
}
