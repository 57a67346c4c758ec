-- Bearer tokens that have a name, a scope and an end. Those there were are the
-- agent's own first ones, which may do everything. `vms` is a JSON array of
-- ids, NULL without that limit.
ALTER TABLE tokens RENAME TO first_tokens;
CREATE TABLE tokens (
    id         TEXT PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    digest     TEXT NOT NULL UNIQUE,
    scope      TEXT NOT NULL,
    vms        TEXT,
    created_at TEXT NOT NULL,
    expires_at TEXT,
    used_at    TEXT,
    revoked_at TEXT
) STRICT, WITHOUT ROWID;
-- A token's id is the first 8 bytes of its digest, which begins with `sha256:`.
INSERT INTO tokens (id, name, digest, scope, created_at)
    SELECT substr(digest, 8, 16), 'first-' || substr(digest, 8, 6), digest, 'admin', created_at
    FROM first_tokens;
DROP TABLE first_tokens;
