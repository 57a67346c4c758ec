-- How the machine last came to its end: JSON of StoredEnd in row.rs.
ALTER TABLE vm_observed ADD COLUMN last_end TEXT;

-- The size that the VM's disk has grown to, in bytes. `spec` stays as it was
-- accepted: what grew is a fact of its own, so that no write of one undoes the
-- other.
ALTER TABLE vms ADD COLUMN grown_disk INTEGER;
