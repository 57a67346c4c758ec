use std::net::IpAddr;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use inn_api::{AddressSource, Code, Problem, VmAddress, VmAddressChange};
use inn_domain::Network;
use inn_domain::network::AttachDeniedReason;
use inn_units::ForeignNetwork;
use inn_vmm_libvirt::{KnownBy, within};
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::IntoParams;

use crate::access::Principal;
use crate::error::Chain;
use crate::http::extract::{Body, Params, Wait};
use crate::http::networks::lease_code;
use crate::http::problem::{Failed, find_vm};
use crate::http::{ApiState, convert};
use crate::network::AddressChange;
use crate::node::Node;
use crate::vm::{AddressError, VmHandle, mac};

/// Between two looks at what a guest says of itself.
const LOOK: Duration = Duration::from_millis(200);

/// The same where somebody else is asked.
const LOOK_ELSEWHERE: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct AddressParams {
    /// How long an address is waited for that is not known yet.
    #[param(value_type = Option<String>, example = "120s", pattern = "^[0-9]{1,6}(ms|s|m|h|d)?$")]
    timeout: Option<Wait>,
}

/// A VM's addresses: leased by the node, known from its creation on, or where
/// the node has no bridges as its guest says them. On a network of libvirt's as
/// that has leased them; on a bridge of the host's as the guest, or the host's
/// neighbours, tell.
#[utoipa::path(get, path = "/api/vms/{vm}/ip", tag = "vms",
    params(("vm" = String, Path, description = "Name or id"), AddressParams), responses(
        (status = 200, body = VmAddress),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "it has no network", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "it has no address within `timeout`", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn address(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Params(params): Params<AddressParams>,
) -> Result<Json<VmAddress>, Failed> {
    let node = &state.node;
    let vm = find_vm(&node.vms, &name)?;
    if vm.spec().network == Network::None {
        let detail = format!("VM {} has no network, and so no address", vm.spec().name);
        return Err(Failed::new(Code::Conflict, detail));
    }
    let wait = params.timeout.map_or(Duration::ZERO, |Wait(wait)| wait);
    let until = Instant::now() + wait;
    loop {
        let (look, address) = match &vm.spec().network {
            Network::Foreign(network) => (LOOK_ELSEWHERE, elsewhere(node, &vm, network).await),
            _ => (LOOK, known(node, &vm)),
        };
        if let Some(address) = address {
            return Ok(Json(address));
        }
        if vm.view().gone {
            return Err(Failed::new(Code::NotFound, format!("VM {name} is deleted")));
        }
        if Instant::now() >= until {
            let detail = format!(
                "VM {} has told no address; give it more time with timeout, `inn vm why {}` says \
                 how far it is",
                vm.spec().name,
                vm.spec().name
            );
            return Err(Failed::new(Code::Timeout, detail));
        }
        tokio::time::sleep_until(until.min(Instant::now() + look)).await;
    }
}

/// Gives a VM other addresses on its network, at once where it runs: port maps,
/// DHCP and names follow, and its guest is told. Not for a token of some VMs:
/// others' rules may name an address.
#[utoipa::path(patch, path = "/api/vms/{vm}/ip", tag = "vms",
    params(("vm" = String, Path, description = "Name or id")),
    request_body = VmAddressChange, responses(
        (status = 200, description = "kept, and in force; what its guest has yet to do is in `pending`", body = VmAddress),
        (status = 400, body = Problem, content_type = "application/problem+json"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "it is somebody's, or the VM is being deleted", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "all addresses of the network are in use", body = Problem, content_type = "application/problem+json"),
    ))]
pub(in crate::http) async fn set_address(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Extension(principal): Extension<Principal>,
    Body(change): Body<VmAddressChange>,
) -> Result<Json<VmAddress>, Failed> {
    let node = &state.node;
    let vm = find_vm(&node.vms, &name)?;
    if principal.is_limited() {
        let who = &principal.who;
        let detail = format!("{who} has some VMs only, and their addresses are not its to change");
        return Err(Failed::new(Code::Forbidden, detail));
    }
    let VmAddressChange { ipv4, ipv6 } = change;
    if ipv4.is_none() && ipv6.is_none() {
        return Err(Failed::invalid("say which address is to change: ipv4, ipv6 or both"));
    }
    let change = AddressChange { ipv4, ipv6 };
    let pending = vm.change_addresses(node, change).await.map_err(|error| {
        let code = match &error {
            AddressError::Denied(AttachDeniedReason::BeingDeleted) => Code::Conflict,
            AddressError::Lease(denied) => lease_code(denied),
            AddressError::Denied(_) | AddressError::NotOurs => Code::InvalidRequest,
            AddressError::Store(_) | AddressError::NotApplied(_) => {
                return Failed::internal(&error);
            }
        };
        Failed::new(code, format!("VM {}: {error}", vm.spec().name))
    })?;
    let address = known(node, &vm)
        .ok_or_else(|| Failed::new(Code::NotFound, format!("VM {name} is deleted")))?;
    Ok(Json(VmAddress { pending, ..address }))
}

/// On a network that is not the node's: as whoever leases addresses there says,
/// else as its guest or its host's neighbours do.
async fn elsewhere(node: &Node, vm: &VmHandle, network: &ForeignNetwork) -> Option<VmAddress> {
    let subnet = node.runtimes.libvirt_settings().subnet;
    let asked = match vm.machine() {
        Some(machine) => machine.addresses(network, mac(vm.id())).await,
        None => Ok(None),
    };
    let told = asked.unwrap_or_else(|error| {
        tracing::debug!(vm = %vm.spec().name, error = %Chain(&error), "its addresses");
        None
    });
    match told {
        Some((KnownBy::Lease, leased)) => address_of(leased, AddressSource::Lease),
        told => {
            let guests = within(told_by_guest(vm), network, subnet);
            let heard = told.map(|(_, heard)| heard).unwrap_or_default();
            address_of(guests, AddressSource::Guest)
                .or_else(|| address_of(heard, AddressSource::Neighbour))
        }
    }
}

/// The first of each family that others reach it by.
fn address_of(addresses: Vec<IpAddr>, source: AddressSource) -> Option<VmAddress> {
    let ipv4 = addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    let ipv6 = addresses.iter().find_map(|address| match address {
        IpAddr::V6(address) if !address.is_unicast_link_local() => Some(*address),
        _ => None,
    });
    (ipv4.is_some() || ipv6.is_some()).then_some(VmAddress {
        ipv4,
        ipv6,
        name: None,
        source,
        pending: None,
    })
}

fn told_by_guest(vm: &VmHandle) -> Vec<IpAddr> {
    let Some(told) = vm.telemetry().latest() else { return Vec::new() };
    let cards = told.telemetry.interfaces.iter().filter(|interface| interface.name != "lo");
    cards.flat_map(|interface| interface.addresses.iter().map(|(address, _)| *address)).collect()
}

fn known(node: &Node, vm: &VmHandle) -> Option<VmAddress> {
    if let Some(network) = node.networks.of(&vm.spec().network) {
        let lease = node.networks.lease(vm.id())?;
        let (name, network) = (&vm.spec().name, &network.spec.name);
        return Some(VmAddress {
            ipv4: lease.ipv4,
            ipv6: lease.ipv6,
            name: Some(format!("{name}.{network}.{}", convert::network::DOMAIN)),
            source: AddressSource::Lease,
            pending: None,
        });
    }
    address_of(told_by_guest(vm), AddressSource::Guest)
}
