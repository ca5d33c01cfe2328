-- The warehouse's tables. Every time is UTC (TIMESTAMP, microseconds), every size is in bytes.
-- There are no indexes and no constraints: DuckDB scans columns, and the one writer keeps the
-- cursor in the same transaction as the rows, so nothing comes twice.

-- The place in the log up to which everything is here (one row).
CREATE TABLE IF NOT EXISTS ingest_cursor (
    log_id VARCHAR,
    position BIGINT NOT NULL,
    hint BIGINT
);

-- Each log that this warehouse was seeded from: more than one row means that a log was restored.
CREATE TABLE IF NOT EXISTS seeds (
    time TIMESTAMP NOT NULL,
    log_id VARCHAR NOT NULL,
    previous_log_id VARCHAR,
    previous_position BIGINT
);

-- Every event, as the log has it.
CREATE TABLE IF NOT EXISTS events (
    position BIGINT NOT NULL,
    time TIMESTAMP NOT NULL,
    stream VARCHAR NOT NULL,
    version BIGINT NOT NULL,
    name VARCHAR NOT NULL,
    schema INTEGER NOT NULL,
    actor VARCHAR NOT NULL,
    command VARCHAR NOT NULL,
    correlation VARCHAR,
    causation VARCHAR,
    addressee VARCHAR,
    payload JSON NOT NULL
);

-- The audit log: what people are shown of the events that have something to show.
CREATE TABLE IF NOT EXISTS audit (
    position BIGINT NOT NULL,
    time TIMESTAMP NOT NULL,
    code INTEGER NOT NULL,
    name VARCHAR NOT NULL,
    severity VARCHAR NOT NULL,
    message VARCHAR NOT NULL,
    actor VARCHAR NOT NULL,
    stream VARCHAR NOT NULL,
    correlation VARCHAR,
    resolves VARCHAR
);

-- Configurations over time: a row counts from valid_from up to, but not including, valid_to (NULL:
-- it still counts). The position is that of the event that made it so.
CREATE TABLE IF NOT EXISTS data_center_configuration (
    data_center VARCHAR NOT NULL,
    name VARCHAR,
    description VARCHAR,
    storage_type VARCHAR,
    compatibility_version VARCHAR,
    position BIGINT NOT NULL,
    valid_from TIMESTAMP NOT NULL,
    valid_to TIMESTAMP
);

CREATE TABLE IF NOT EXISTS cluster_configuration (
    cluster VARCHAR NOT NULL,
    name VARCHAR,
    data_center VARCHAR,
    description VARCHAR,
    architecture VARCHAR,
    cpu_model VARCHAR,
    machine_type VARCHAR,
    compatibility_version VARCHAR,
    position BIGINT NOT NULL,
    valid_from TIMESTAMP NOT NULL,
    valid_to TIMESTAMP
);

CREATE TABLE IF NOT EXISTS host_configuration (
    host VARCHAR NOT NULL,
    name VARCHAR,
    cluster VARCHAR,
    data_center VARCHAR,
    address VARCHAR,
    hostname VARCHAR,
    architecture VARCHAR,
    cpus INTEGER,
    cpu_model VARCHAR,
    memory_bytes BIGINT,
    hypervisor_version VARCHAR,
    agent_version VARCHAR,
    position BIGINT NOT NULL,
    valid_from TIMESTAMP NOT NULL,
    valid_to TIMESTAMP
);

CREATE TABLE IF NOT EXISTS vm_configuration (
    vm VARCHAR NOT NULL,
    name VARCHAR,
    data_center VARCHAR,
    cluster VARCHAR,
    description VARCHAR,
    delete_protected BOOLEAN,
    memory_bytes BIGINT,
    cpus INTEGER,
    sockets INTEGER,
    cores INTEGER,
    threads INTEGER,
    disks INTEGER,
    disks_bytes BIGINT,
    nics INTEGER,
    position BIGINT NOT NULL,
    valid_from TIMESTAMP NOT NULL,
    valid_to TIMESTAMP
);

-- Affinity groups and labels; their members by their ids.
CREATE TABLE IF NOT EXISTS affinity_group_configuration (
    affinity_group VARCHAR NOT NULL,
    name VARCHAR,
    cluster VARCHAR,
    description VARCHAR,
    vm_rule VARCHAR,
    vm_enforcing BOOLEAN,
    host_rule VARCHAR,
    host_enforcing BOOLEAN,
    priority DOUBLE,
    vms VARCHAR[],
    hosts VARCHAR[],
    vm_labels VARCHAR[],
    host_labels VARCHAR[],
    position BIGINT NOT NULL,
    valid_from TIMESTAMP NOT NULL,
    valid_to TIMESTAMP
);

CREATE TABLE IF NOT EXISTS affinity_label_configuration (
    affinity_label VARCHAR NOT NULL,
    name VARCHAR,
    description VARCHAR,
    vms VARCHAR[],
    hosts VARCHAR[],
    position BIGINT NOT NULL,
    valid_from TIMESTAMP NOT NULL,
    valid_to TIMESTAMP
);

-- How the rows of each kind's configurations were worked out: another revision, and all are anew.
CREATE TABLE IF NOT EXISTS configuration_revisions (
    kind VARCHAR NOT NULL,
    revision INTEGER NOT NULL
);

-- Samples, as the hosts sent them; the time is the host's own.
CREATE TABLE IF NOT EXISTS host_samples (
    time TIMESTAMP NOT NULL,
    host VARCHAR NOT NULL,
    boot VARCHAR NOT NULL,
    cpu_percent DOUBLE,
    load DOUBLE,
    memory_total_bytes BIGINT,
    memory_used_bytes BIGINT,
    storage_free_bytes BIGINT,
    vms_running INTEGER,
    network_receive_bytes_per_s DOUBLE,
    network_transmit_bytes_per_s DOUBLE
);

CREATE TABLE IF NOT EXISTS vm_samples (
    time TIMESTAMP NOT NULL,
    host VARCHAR NOT NULL,
    vm VARCHAR NOT NULL,
    incarnation BIGINT NOT NULL,
    cpu_percent DOUBLE,
    memory_bytes BIGINT,
    memory_used_bytes BIGINT,
    disk_read_bytes_per_s DOUBLE,
    disk_write_bytes_per_s DOUBLE,
    disk_read_operations_per_s DOUBLE,
    disk_write_operations_per_s DOUBLE,
    network_receive_bytes_per_s DOUBLE,
    network_transmit_bytes_per_s DOUBLE
);

-- The highest sequence of telemetry taken in, for each boot of each host, and what hosts lost.
CREATE TABLE IF NOT EXISTS telemetry_watermarks (
    host VARCHAR NOT NULL,
    boot VARCHAR NOT NULL,
    sequence BIGINT NOT NULL,
    dropped BIGINT NOT NULL,
    time TIMESTAMP NOT NULL
);

-- The next offset of each partition of the telemetry topic (only with Kafka).
CREATE TABLE IF NOT EXISTS telemetry_offsets (
    partition INTEGER NOT NULL,
    next_offset BIGINT NOT NULL
);

-- Every run of every VM: when it was placed, started, up and down, where and why it ended.
CREATE OR REPLACE VIEW vm_runs AS
SELECT
    split_part(stream, '/', 2) AS vm,
    CAST(payload ->> 'incarnation' AS BIGINT) AS incarnation,
    arg_max(payload ->> 'name', position) AS name,
    arg_max(payload ->> 'host', position) FILTER (payload ->> 'host' IS NOT NULL) AS host,
    arg_max(payload ->> 'host_name', position)
        FILTER (payload ->> 'host_name' IS NOT NULL) AS host_name,
    min(time) FILTER (events.name = 'vm.placed') AS placed,
    min(time) FILTER (events.name IN ('vm.started', 'vm.adopted')) AS started,
    min(time) FILTER (events.name = 'vm.up') AS up,
    min(time) FILTER (events.name IN ('vm.down', 'vm.suspended')) AS down,
    min(payload ->> 'reason') FILTER (events.name = 'vm.down') AS reason
FROM events
WHERE events.name IN (
    'vm.placed', 'vm.adopted', 'vm.started', 'vm.up', 'vm.down', 'vm.suspended'
)
GROUP BY ALL;
