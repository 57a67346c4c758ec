-- What there is one of.
CREATE TABLE node (
    key   TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What is desired. `spec` and `desired` are JSON of the types in row.rs.
CREATE TABLE vms (
    id         TEXT PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL UNIQUE,
    spec       TEXT NOT NULL,
    desired    TEXT NOT NULL,
    generation INTEGER NOT NULL,
    created_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What was last seen. Lost with the host without harm: it is found out again.
CREATE TABLE vm_observed (
    id                  TEXT PRIMARY KEY NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    phase               TEXT NOT NULL,
    observed_generation INTEGER NOT NULL,
    disks               INTEGER NOT NULL,
    up_run              INTEGER,
    machine             TEXT,
    down                TEXT,
    failure             TEXT,
    workload            TEXT,
    started_at          TEXT,
    boot_ms             INTEGER
) STRICT, WITHOUT ROWID;

-- Whether KVM booted this kernel, with this VMM, since this boot of the host.
CREATE TABLE probes (
    kernel    TEXT NOT NULL,
    vmm       TEXT NOT NULL,
    host_boot TEXT NOT NULL,
    usable    INTEGER NOT NULL,
    reason    TEXT NOT NULL,
    took_ms   INTEGER NOT NULL,
    PRIMARY KEY (kernel, vmm, host_boot)
) STRICT, WITHOUT ROWID;

-- The SHA-256 of each bearer token, never the token.
CREATE TABLE tokens (
    digest     TEXT PRIMARY KEY NOT NULL,
    created_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
