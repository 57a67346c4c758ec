-- What has happened, for people and for other programs; the oldest go first.
-- AUTOINCREMENT: a number that was told is never another event's, also after
-- all of them are gone.
CREATE TABLE events (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    -- Microseconds since 1970.
    at      INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    vm_id   TEXT,
    vm_name TEXT,
    actor   TEXT,
    message TEXT NOT NULL,
    -- A JSON object.
    detail  TEXT NOT NULL
) STRICT;
