//! libvirt's own networks, and the addresses that it knows of its domains' cards.

use std::ffi::{c_char, c_int, c_longlong, c_uint, c_void};
use std::net::IpAddr;
use std::ptr::{self, NonNull};

use super::{CallError, Connection, Domain, c_text, text};

// include/libvirt/virterror.h
const NO_NETWORK: c_int = 43;

/// VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP
const FROM_NEIGHBOURS: c_uint = 2;

/// virNetworkDHCPLease.
#[repr(C)]
pub(super) struct RawLease {
    iface: *mut c_char,
    expires: c_longlong,
    kind: c_int,
    mac: *mut c_char,
    iaid: *mut c_char,
    address: *mut c_char,
    prefix: c_uint,
    hostname: *mut c_char,
    client: *mut c_char,
}

/// virDomainIPAddress.
#[repr(C)]
pub(super) struct RawAddress {
    kind: c_int,
    address: *mut c_char,
    prefix: c_uint,
}

/// virDomainInterface.
#[repr(C)]
pub(super) struct RawInterface {
    name: *mut c_char,
    mac: *mut c_char,
    count: c_uint,
    addresses: *mut RawAddress,
}

/// Has a count of its connection.
#[derive(Debug)]
pub(crate) struct Network<'a> {
    connection: &'a Connection,
    raw: NonNull<c_void>,
}

impl Connection {
    /// `None` where there is no such network.
    pub(crate) fn find_network(&self, name: &str) -> Result<Option<Network<'_>>, CallError> {
        let step = "looking for the network";
        let name = c_text(step, name)?;
        // SAFETY: a connection that lives, and a string that does.
        let raw = unsafe {
            (self.library.functions.virNetworkLookupByName)(self.raw.as_ptr(), name.as_ptr())
        };
        if let Some(raw) = NonNull::new(raw) {
            return Ok(Some(Network { connection: self, raw }));
        }
        let error = self.library.error(step);
        if error.code == NO_NETWORK { Ok(None) } else { Err(error) }
    }
}

impl Network<'_> {
    pub(crate) fn is_active(&self) -> Result<bool, CallError> {
        let library = self.connection.library;
        // SAFETY: a network that lives.
        let active = unsafe { (library.functions.virNetworkIsActive)(self.raw.as_ptr()) };
        library.check("asking whether the network is active", active)?;
        Ok(active == 1)
    }

    /// What it has leased to a card, by its MAC; the newest last.
    pub(crate) fn leases(&self, mac: &str) -> Result<Vec<IpAddr>, CallError> {
        let step = "asking for the network's leases";
        let library = self.connection.library;
        let mac = c_text(step, mac)?;
        let mut all: *mut *mut RawLease = ptr::null_mut();
        // SAFETY: a network and a string that live, and where to put the list.
        let count = unsafe {
            let (raw, all) = (self.raw.as_ptr(), &raw mut all);
            (library.functions.virNetworkGetDHCPLeases)(raw, mac.as_ptr(), all, 0)
        };
        library.check(step, count)?;
        let mut leases: Vec<(c_longlong, IpAddr)> = Vec::new();
        for index in 0..usize::try_from(count).unwrap_or_default() {
            // SAFETY: the list has `count` leases, each ours to free once it was
            // read, with strings that live as long.
            unsafe {
                let lease = *all.add(index);
                let address = text((*lease).address).and_then(|address| address.parse().ok());
                leases.extend(address.map(|address| ((*lease).expires, address)));
                (library.functions.virNetworkDHCPLeaseFree)(lease);
            }
        }
        // SAFETY: the list itself is malloc's (docs of virNetworkGetDHCPLeases).
        unsafe { libc::free(all.cast()) };
        leases.sort_by_key(|(expires, _)| *expires);
        Ok(leases.into_iter().map(|(_, address)| address).collect())
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        // SAFETY: a network that lives, for the last time.
        unsafe { (self.connection.library.functions.virNetworkFree)(self.raw.as_ptr()) };
    }
}

impl Domain {
    /// Those that libvirtd's host has heard of for the domain's cards.
    pub(crate) fn neighbours(&self) -> Result<Vec<IpAddr>, CallError> {
        let functions = self.functions();
        let mut all: *mut *mut RawInterface = ptr::null_mut();
        // SAFETY: a domain that lives, and where to put the list.
        let count = unsafe {
            let (raw, all) = (self.raw.as_ptr(), &raw mut all);
            (functions.virDomainInterfaceAddresses)(raw, all, FROM_NEIGHBOURS, 0)
        };
        self.check("asking for the host's neighbours", count)?;
        let mut addresses = Vec::new();
        for index in 0..usize::try_from(count).unwrap_or_default() {
            // SAFETY: the list has `count` interfaces, each ours to free once it
            // was read, with as many addresses as it says.
            unsafe {
                let card = *all.add(index);
                for number in 0..usize::try_from((*card).count).unwrap_or_default() {
                    let address = text((*(*card).addresses.add(number)).address);
                    addresses.extend(address.and_then(|text| text.parse::<IpAddr>().ok()));
                }
                (functions.virDomainInterfaceFree)(card);
            }
        }
        // SAFETY: the list itself is malloc's (docs of virDomainInterfaceAddresses).
        unsafe { libc::free(all.cast()) };
        Ok(addresses)
    }
}
