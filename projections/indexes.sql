-- The indexes that readers need; made once a build has caught up, since sorting is faster than
-- keeping them sorted. A list asks for keys and positions first: with the position in the index of
-- the common order, it reads no row.
CREATE INDEX data_centers_name ON inventory.data_centers (name, id);
CREATE INDEX data_centers_position ON inventory.data_centers (position);

CREATE INDEX clusters_name ON inventory.clusters (name, id);
CREATE INDEX clusters_position ON inventory.clusters (position);

CREATE INDEX hosts_name ON inventory.hosts (name, id) INCLUDE (position);
CREATE INDEX hosts_cluster ON inventory.hosts (cluster_id);
CREATE INDEX hosts_position ON inventory.hosts (position);
CREATE INDEX hosts_pieces ON inventory.hosts USING gin (string_to_array(pieces, E'\x1f'));

CREATE INDEX vms_name ON inventory.vms (name, id) INCLUDE (position);
CREATE INDEX vms_created ON inventory.vms (created_at, id);
CREATE INDEX vms_status ON inventory.vms (status, name, id);
CREATE INDEX vms_cluster ON inventory.vms (cluster_id, name, id);
CREATE INDEX vms_position ON inventory.vms (position);
-- A word that few have would have all rows looked at, each of some kilobytes.
CREATE INDEX vms_pieces ON inventory.vms USING gin (string_to_array(pieces, E'\x1f'));

CREATE INDEX affinity_groups_name ON inventory.affinity_groups (name, id);
CREATE INDEX affinity_groups_position ON inventory.affinity_groups (position);
CREATE INDEX affinity_labels_name ON inventory.affinity_labels (name, id);
CREATE INDEX affinity_labels_position ON inventory.affinity_labels (position);
CREATE INDEX scheduling_policies_name ON inventory.scheduling_policies (name, id);
CREATE INDEX scheduling_policies_position ON inventory.scheduling_policies (position);
CREATE INDEX mac_pools_name ON inventory.mac_pools (name, id);
CREATE INDEX mac_pools_position ON inventory.mac_pools (position);

CREATE INDEX operations_started ON inventory.operations (started_at, id);
CREATE INDEX operations_target ON inventory.operations (target_id, started_at);
-- Few operations are open at a time, and they are the ones that people look for.
CREATE INDEX operations_open ON inventory.operations (started_at, id) WHERE ended_at IS NULL;
CREATE INDEX operations_position ON inventory.operations (position);

CREATE INDEX removed_position ON inventory.removed (position);
