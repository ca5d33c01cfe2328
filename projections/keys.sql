-- The keys of the large tables, and which VMs a silent host may run: what writing anything but new
-- rows needs. Made once a build needs them, or at its end: sorting is faster than keeping sorted.
ALTER TABLE inventory.vms ADD PRIMARY KEY (id);
ALTER TABLE inventory.operations ADD PRIMARY KEY (id);
CREATE INDEX vms_host ON inventory.vms (host_id) WHERE host_id IS NOT NULL;
