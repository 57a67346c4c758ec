-- What the VM's machine may use now, where that has changed since the VM was
-- made: JSON of StoredLimits in row.rs. `spec` stays as it was accepted.
ALTER TABLE vms ADD COLUMN limits TEXT;
