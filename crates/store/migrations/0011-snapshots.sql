-- What is saved of VMs on the disk. A row is there once all of its files are;
-- the manifest is the one beside them, JSON whose format says its version.
CREATE TABLE snapshots (
    id         TEXT PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL UNIQUE,
    manifest   TEXT NOT NULL,
    created_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What its guest has confirmed, of a VM that began from a saved machine: JSON
-- of StoredReceipt in row.rs.
ALTER TABLE vm_observed ADD COLUMN receipt TEXT;
