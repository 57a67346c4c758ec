-- Requests that came with an Idempotency-Key, and what they came to. A row is
-- written with what the request wants of a VM, in one transaction, and has its
-- answer once there is one.
CREATE TABLE request_keys (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    caller  TEXT NOT NULL,
    -- Method and path, as the router has it.
    route   TEXT NOT NULL,
    key     TEXT NOT NULL,
    -- SHA-256 of the request.
    digest  TEXT NOT NULL,
    -- Microseconds since 1970.
    at      INTEGER NOT NULL,
    vm_id   TEXT,
    status  INTEGER,
    -- A JSON array of names and values.
    headers TEXT,
    body    BLOB,
    UNIQUE (caller, route, key)
) STRICT;
