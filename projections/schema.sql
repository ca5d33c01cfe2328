-- The inventory: what the folds of projections/views make of the log. `inventory` stands for the
-- schema's name, which is `inventory_next` while it is built anew beside the one being served.
-- Everything in it can be dropped and built again from the log; it needs no migrations. The audit
-- log is in audit.sql.

-- Up to where the inventory is built, and from which log. One row, written in the same transaction
-- as the documents.
CREATE TABLE inventory.cursor (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    log_id uuid,
    position bigint NOT NULL,
    hint bigint,
    schema_hash text NOT NULL
);

-- The tables that grow large have their keys in keys.sql.
-- Documents are the rendered JSON, uncompressed, so that a list is a mere concatenation of them:
-- hence storage EXTERNAL, and a tuple target that keeps all but the largest in the row itself. A
-- summary is what a list shows where the document is too much for it. The pieces of a text that is
-- searched are those of views/pieces.py.
CREATE TABLE inventory.data_centers (
    id text COLLATE "C" PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    configuration_version int NOT NULL,
    search text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    document bytea NOT NULL
) WITH (toast_tuple_target = 8160);

CREATE TABLE inventory.clusters (
    id text COLLATE "C" PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    data_center_id text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    search text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    document bytea NOT NULL
) WITH (toast_tuple_target = 8160);

CREATE TABLE inventory.hosts (
    id text COLLATE "C" PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    status_since timestamptz NOT NULL,
    cluster_id text COLLATE "C" NOT NULL,
    data_center_id text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    search text COLLATE "C" NOT NULL,
    pieces text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    summary bytea NOT NULL,
    document bytea NOT NULL
) WITH (toast_tuple_target = 8160);

CREATE TABLE inventory.vms (
    id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    status_since timestamptz NOT NULL,
    host_id text COLLATE "C",
    cluster_id text COLLATE "C" NOT NULL,
    data_center_id text COLLATE "C" NOT NULL,
    memory_bytes bigint NOT NULL,
    vcpus int NOT NULL,
    restart_priority int,
    created_at timestamptz NOT NULL,
    configuration_version int NOT NULL,
    search text COLLATE "C" NOT NULL,
    pieces text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    summary bytea NOT NULL,
    document bytea NOT NULL
) WITH (toast_tuple_target = 8160);

CREATE TABLE inventory.operations (
    id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    target_kind text COLLATE "C" NOT NULL,
    target_id text COLLATE "C" NOT NULL,
    actor text COLLATE "C" NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    search text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    document bytea NOT NULL
) WITH (toast_tuple_target = 8160);

CREATE TABLE inventory.affinity_groups (
    id text COLLATE "C" PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    cluster_id text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    search text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    document bytea NOT NULL
) WITH (toast_tuple_target = 8160);

CREATE TABLE inventory.affinity_labels (
    id text COLLATE "C" PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    search text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    document bytea NOT NULL
) WITH (toast_tuple_target = 8160);

CREATE TABLE inventory.scheduling_policies (
    id text COLLATE "C" PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    search text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    document bytea NOT NULL
) WITH (toast_tuple_target = 8160);

CREATE TABLE inventory.mac_pools (
    id text COLLATE "C" PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL,
    configuration_version int NOT NULL,
    search text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    document bytea NOT NULL
) WITH (toast_tuple_target = 8160);

ALTER TABLE inventory.data_centers ALTER COLUMN document SET STORAGE EXTERNAL;
ALTER TABLE inventory.clusters ALTER COLUMN document SET STORAGE EXTERNAL;
ALTER TABLE inventory.hosts ALTER COLUMN document SET STORAGE EXTERNAL;
ALTER TABLE inventory.hosts ALTER COLUMN summary SET STORAGE EXTERNAL;
ALTER TABLE inventory.vms ALTER COLUMN document SET STORAGE EXTERNAL;
ALTER TABLE inventory.vms ALTER COLUMN summary SET STORAGE EXTERNAL;
ALTER TABLE inventory.operations ALTER COLUMN document SET STORAGE EXTERNAL;
ALTER TABLE inventory.affinity_groups ALTER COLUMN document SET STORAGE EXTERNAL;
ALTER TABLE inventory.affinity_labels ALTER COLUMN document SET STORAGE EXTERNAL;
ALTER TABLE inventory.scheduling_policies ALTER COLUMN document SET STORAGE EXTERNAL;
ALTER TABLE inventory.mac_pools ALTER COLUMN document SET STORAGE EXTERNAL;

-- What is gone, and since when: a reader of changes that was away learns of it.
CREATE TABLE inventory.removed (
    kind text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (kind, id)
);
