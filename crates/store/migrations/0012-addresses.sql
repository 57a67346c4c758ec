-- A VM's addresses may change while there is the VM. What it had before is
-- given again as late as what others had, so that a VM may have many rows, of
-- which one at most is not released; and its guest may have yet to be told.
CREATE TABLE leases_of_12 (
    vm       TEXT NOT NULL,
    network  TEXT NOT NULL REFERENCES networks (id) ON DELETE CASCADE,
    ipv4     TEXT,
    ipv6     TEXT,
    -- When the VM went, or had another one.
    released TEXT,
    untold   INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO leases_of_12 (vm, network, ipv4, ipv6, released)
    SELECT vm, network, ipv4, ipv6, released FROM leases;
DROP TRIGGER vm_releases_its_lease;
DROP TABLE leases;
ALTER TABLE leases_of_12 RENAME TO leases;
CREATE UNIQUE INDEX lease_of_vm ON leases (vm) WHERE released IS NULL;
CREATE TRIGGER vm_releases_its_lease AFTER DELETE ON vms
BEGIN
    UPDATE leases SET released = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
    WHERE vm = OLD.id AND released IS NULL;
END;
