-- Networks of this host. `spec` is JSON of StoredNetworkSpec in network_rows.rs.
CREATE TABLE networks (
    id         TEXT PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL UNIQUE,
    spec       TEXT NOT NULL,
    created_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The addresses that VMs have, and had: those of a VM that is gone are given
-- again as late as can be.
CREATE TABLE leases (
    vm       TEXT PRIMARY KEY NOT NULL,
    network  TEXT NOT NULL REFERENCES networks (id) ON DELETE CASCADE,
    ipv4     TEXT,
    ipv6     TEXT,
    -- When the VM went.
    released TEXT
) STRICT, WITHOUT ROWID;
CREATE TRIGGER vm_releases_its_lease AFTER DELETE ON vms
BEGIN
    UPDATE leases SET released = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE vm = OLD.id;
END;

-- Ports of the host that lead elsewhere. `spec` is JSON of StoredPortMap.
-- No reference to vms: those of a VM that is to take another one's place are
-- written before it is one.
CREATE TABLE port_maps (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    id   TEXT NOT NULL UNIQUE,
    vm   TEXT,
    spec TEXT NOT NULL
) STRICT;
CREATE INDEX port_maps_of_vm ON port_maps (vm) WHERE vm IS NOT NULL;
CREATE TRIGGER vm_takes_its_port_maps_along AFTER DELETE ON vms
BEGIN
    DELETE FROM port_maps WHERE vm = OLD.id;
END;
CREATE TRIGGER successor_takes_its_port_maps_along AFTER DELETE ON successors
WHEN NOT EXISTS (SELECT 1 FROM vms WHERE id = OLD.id)
BEGIN
    DELETE FROM port_maps WHERE vm = OLD.id;
END;

-- What the VM may reach now, where that has changed since the VM was made:
-- JSON of StoredPolicy. `spec` stays as it was accepted.
ALTER TABLE vms ADD COLUMN policy TEXT;
