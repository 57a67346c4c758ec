-- A VM that takes another one's place in the very write by which that one is
-- forgotten. No reference to vms, whose row goes before this one. `spec`,
-- `desired` and `ttl` are as in vms.
CREATE TABLE successors (
    of         TEXT PRIMARY KEY NOT NULL,
    id         TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    spec       TEXT NOT NULL,
    desired    TEXT NOT NULL,
    generation INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    ttl        TEXT
) STRICT, WITHOUT ROWID;

-- How often the VM went down of late, and when it starts again: JSON of
-- StoredBackoff in row.rs.
ALTER TABLE vm_observed ADD COLUMN backoff TEXT;
