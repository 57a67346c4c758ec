use std::net::IpAddr;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use inn_api::{AddressSource, Code, Problem, VmAddress};
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::IntoParams;

use crate::http::extract::{Params, Wait};
use crate::http::problem::{Failed, find_vm};
use crate::http::{ApiState, convert};
use crate::node::Node;
use crate::vm::VmHandle;

/// Between two looks at what a guest says of itself.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct AddressParams {
    /// How long an address is waited for that is not known yet.
    #[param(value_type = Option<String>, example = "120s", pattern = "^[0-9]{1,6}(ms|s|m|h|d)?$")]
    timeout: Option<Wait>,
}

/// A VM's addresses: leased by the node, known from its creation on, or where
/// the node has no bridges as its guest says them.
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
    if vm.spec().network == inn_domain::Network::None {
        let detail = format!("VM {} has no network, and so no address", vm.spec().name);
        return Err(Failed::new(Code::Conflict, detail));
    }
    let wait = params.timeout.map_or(Duration::ZERO, |Wait(wait)| wait);
    let until = Instant::now() + wait;
    loop {
        if let Some(address) = known(node, &vm) {
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
        tokio::time::sleep_until(until.min(Instant::now() + LOOK)).await;
    }
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
        });
    }
    let told = vm.telemetry().latest()?;
    let addresses = || {
        let cards = told.telemetry.interfaces.iter().filter(|interface| interface.name != "lo");
        cards.flat_map(|interface| interface.addresses.iter().map(|(address, _)| *address))
    };
    let ipv4 = addresses().find_map(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let ipv6 = addresses().find_map(|address| match address {
        IpAddr::V6(address) if !address.is_unicast_link_local() => Some(address),
        _ => None,
    });
    (ipv4.is_some() || ipv6.is_some()).then_some(VmAddress {
        ipv4,
        ipv6,
        name: None,
        source: AddressSource::Guest,
    })
}
