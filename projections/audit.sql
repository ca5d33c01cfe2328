-- The audit log's table, which a build fills in a transaction of its own beside the documents' (see
-- schema.sql); its key and indexes are in audit_indexes.sql.

-- The audit log: insert only, one row for each event that has a record.
CREATE TABLE inventory.events (
    position bigint NOT NULL,
    time timestamptz NOT NULL,
    code int NOT NULL,
    name text COLLATE "C" NOT NULL,
    severity text COLLATE "C" NOT NULL,
    actor text COLLATE "C" NOT NULL,
    object_kind text COLLATE "C" NOT NULL,
    object_id text COLLATE "C" NOT NULL,
    correlation text COLLATE "C",
    message text NOT NULL,
    document bytea NOT NULL
) WITH (toast_tuple_target = 8160);

ALTER TABLE inventory.events ALTER COLUMN document SET STORAGE EXTERNAL;
