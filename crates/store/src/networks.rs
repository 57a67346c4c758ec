//! Networks, the addresses that VMs have in them, and port maps.

use std::net::{Ipv4Addr, Ipv6Addr};

use inn_domain::network::{MapTarget, NetworkSpec, Policy, PortMap};
use inn_units::{NetworkId, PortMapId, VmId};
use jiff::Timestamp;
use rusqlite::{Connection, params};

use crate::error::StoreError;
use crate::network_rows::{StoredNetworkSpec, StoredPolicy, StoredPortMap};
use crate::records::Durability;
use crate::store::{Store, is_unique, json, parse};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRecord {
    pub id: NetworkId,
    pub spec: NetworkSpec,
    pub created_at: Timestamp,
}

/// A VM's addresses: its own for as long as there is the VM, and remembered
/// until another has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRecord {
    pub vm: VmId,
    pub network: NetworkId,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    /// When the VM went, or got others.
    pub released: Option<Timestamp>,
    /// Its guest has others still, and is to be told.
    pub untold: bool,
}

/// What is kept of a VM beside its record, from its first write on.
#[derive(Debug, Clone, Copy, Default)]
pub struct VmParts<'a> {
    pub ports: &'a [PortMap],
    pub lease: Option<LeaseRecord>,
}

impl Store {
    /// In the order of their creation.
    pub async fn networks(&self) -> Result<Vec<NetworkRecord>, StoreError> {
        let rows: Vec<(String, String, String)> = self
            .call("read the networks", Durability::Agent, |c| {
                c.prepare("SELECT id, spec, created_at FROM networks ORDER BY created_at, id")?
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                    .collect()
            })
            .await?;
        rows.into_iter().map(|(id, spec, at)| network(&id, &spec, &at)).collect()
    }

    /// Durable once this returns.
    pub async fn add_network(&self, record: NetworkRecord) -> Result<(), StoreError> {
        let spec = json("a network", &StoredNetworkSpec::from(&record.spec))?;
        let added = self.call("add a network", Durability::Host, move |c| {
            c.execute(
                "INSERT INTO networks (id, name, spec, created_at) VALUES (?1, ?2, ?3, ?4)",
                params![
                    record.id.to_string(),
                    record.spec.name.as_str(),
                    spec,
                    record.created_at.to_string(),
                ],
            )
        });
        match added.await {
            Err(StoreError::Sql { source, .. }) if is_unique(&source) => Err(StoreError::NameTaken),
            done => done.map(drop),
        }
    }

    /// And with it what is remembered of addresses in it.
    pub async fn forget_network(&self, id: NetworkId) -> Result<(), StoreError> {
        self.call_from_reserve("forget a network", Durability::Host, move |c| {
            c.execute("DELETE FROM networks WHERE id = ?1", [id.to_string()])
        })
        .await?;
        Ok(())
    }

    pub async fn leases(&self) -> Result<Vec<LeaseRecord>, StoreError> {
        type Row = (String, String, Option<String>, Option<String>, Option<String>, bool);
        let rows: Vec<Row> = self
            .call("read the leases", Durability::Agent, |c| {
                c.prepare("SELECT vm, network, ipv4, ipv6, released, untold FROM leases")?
                    .query_map([], |row| {
                        let (vm, network) = (row.get(0)?, row.get(1)?);
                        Ok((vm, network, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
                    })?
                    .collect()
            })
            .await?;
        rows.into_iter()
            .map(|(vm, network, ipv4, ipv6, released, untold)| {
                let what = format!("the addresses of the VM {vm}");
                Ok(LeaseRecord {
                    vm: text(&what, &vm)?,
                    network: text(&what, &network)?,
                    ipv4: ipv4.map(|address| text(&what, &address)).transpose()?,
                    ipv6: ipv6.map(|address| text(&what, &address)).transpose()?,
                    released: released.map(|at| text(&what, &at)).transpose()?,
                    untold,
                })
            })
            .collect()
    }

    /// In place of the one that the VM has, if it has one, and of what others
    /// have had of it.
    pub async fn set_lease(
        &self,
        lease: LeaseRecord,
        durability: Durability,
    ) -> Result<(), StoreError> {
        self.call("give a VM its addresses", durability, move |c| {
            let change = c.unchecked_transaction()?;
            insert_lease(&change, &lease)?;
            change.commit()
        })
        .await
    }

    /// Its guest has these, unless it is to have others by now.
    pub async fn lease_is_told(&self, lease: LeaseRecord) -> Result<(), StoreError> {
        self.call("note that a guest has its addresses", Durability::Agent, move |c| {
            c.execute(
                "UPDATE leases SET untold = 0 \
                 WHERE vm = ?1 AND ipv4 IS ?2 AND ipv6 IS ?3 AND released IS NULL",
                params![
                    lease.vm.to_string(),
                    lease.ipv4.map(|address| address.to_string()),
                    lease.ipv6.map(|address| address.to_string()),
                ],
            )
        })
        .await?;
        Ok(())
    }

    /// What the VM may reach from now on.
    pub async fn set_policy(
        &self,
        id: VmId,
        policy: &Policy,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let text = json("a VM's policy", &StoredPolicy::from(policy))?;
        self.call("update a VM's policy", durability, move |c| {
            c.execute("UPDATE vms SET policy = ?2 WHERE id = ?1", params![id.to_string(), text])
        })
        .await?;
        Ok(())
    }

    /// In the order in which they were made.
    pub async fn port_maps(&self) -> Result<Vec<PortMap>, StoreError> {
        let rows: Vec<(String, String)> = self
            .call("read the port maps", Durability::Agent, |c| {
                c.prepare("SELECT id, spec FROM port_maps ORDER BY seq")?
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect()
            })
            .await?;
        rows.into_iter()
            .map(|(id, spec)| {
                let what = format!("the port map {id}");
                let row: StoredPortMap = parse(&what, &spec)?;
                Ok(row.into_map(text(&what, &id)?))
            })
            .collect()
    }

    /// All of them in one transaction, durable once this returns.
    pub async fn add_port_maps(&self, maps: &[PortMap]) -> Result<(), StoreError> {
        let rows = port_map_rows(maps)?;
        self.call("add port maps", Durability::Host, move |c| {
            let change = c.unchecked_transaction()?;
            insert_port_maps(&change, &rows)?;
            change.commit()
        })
        .await
    }

    pub async fn forget_port_maps(&self, ids: &[PortMapId]) -> Result<(), StoreError> {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        self.call_from_reserve("forget port maps", Durability::Host, move |c| {
            let change = c.unchecked_transaction()?;
            let mut forget = change.prepare("DELETE FROM port_maps WHERE id = ?1")?;
            for id in &ids {
                forget.execute([id])?;
            }
            drop(forget);
            change.commit()
        })
        .await
    }
}

/// In place of the one that the VM has, which is remembered where its IPv4
/// address was another, and of what others have had of it.
pub(crate) fn insert_lease(c: &Connection, lease: &LeaseRecord) -> rusqlite::Result<()> {
    let (vm, network) = (lease.vm.to_string(), lease.network.to_string());
    let ipv4 = lease.ipv4.map(|address| address.to_string());
    let ipv6 = lease.ipv6.map(|address| address.to_string());
    c.execute(
        "UPDATE leases SET ipv6 = NULL, untold = 0, \
         released = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') \
         WHERE vm = ?1 AND released IS NULL AND ipv4 IS NOT NULL AND ipv4 IS NOT ?2",
        params![vm, ipv4],
    )?;
    c.execute("DELETE FROM leases WHERE vm = ?1 AND released IS NULL", [&vm])?;
    c.execute(
        "DELETE FROM leases WHERE network = ?1 AND (ipv4 = ?2 OR ipv6 = ?3) \
         AND released IS NOT NULL",
        params![network, ipv4, ipv6],
    )?;
    c.execute(
        "INSERT INTO leases (vm, network, ipv4, ipv6, untold) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![vm, network, ipv4, ipv6, lease.untold],
    )?;
    Ok(())
}

/// Ready to be bound: id, VM, JSON.
pub(crate) type PortMapRow = (String, Option<String>, String);

pub(crate) fn port_map_rows(maps: &[PortMap]) -> Result<Vec<PortMapRow>, StoreError> {
    maps.iter()
        .map(|map| {
            let vm = match map.target {
                MapTarget::Vm(id) => Some(id.to_string()),
                MapTarget::Address(_) => None,
            };
            Ok((map.id.to_string(), vm, json("a port map", &StoredPortMap::from(map))?))
        })
        .collect()
}

pub(crate) fn insert_port_maps(c: &Connection, rows: &[PortMapRow]) -> rusqlite::Result<()> {
    let mut insert = c.prepare("INSERT INTO port_maps (id, vm, spec) VALUES (?1, ?2, ?3)")?;
    for (id, vm, spec) in rows {
        insert.execute(params![id, vm, spec])?;
    }
    Ok(())
}

fn network(id: &str, spec: &str, created_at: &str) -> Result<NetworkRecord, StoreError> {
    let what = format!("the network {id}");
    let row: StoredNetworkSpec = parse(&what, spec)?;
    Ok(NetworkRecord {
        id: text(&what, id)?,
        spec: row.into_spec().map_err(|why| StoreError::Row { what: what.clone(), why })?,
        created_at: text(&what, created_at)?,
    })
}

fn text<T: std::str::FromStr<Err: std::fmt::Display>>(
    what: &str,
    value: &str,
) -> Result<T, StoreError> {
    value.parse().map_err(|e: T::Err| StoreError::Row { what: what.to_owned(), why: e.to_string() })
}

#[cfg(test)]
#[path = "networks_tests.rs"]
mod tests;
