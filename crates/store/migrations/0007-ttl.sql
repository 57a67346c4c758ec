-- The time that the VM was given to live: JSON of StoredTtl in row.rs.
ALTER TABLE vms ADD COLUMN ttl TEXT;
