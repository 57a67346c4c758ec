-- How the VM last came up, and how it last failed to: JSON of StoredBoots in
-- row.rs.
ALTER TABLE vm_observed ADD COLUMN boots TEXT;
