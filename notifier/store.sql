-- The notifier's memory: one file, so that it works while PostgreSQL is away.

-- The place in the log up to which everything is queued (one row). Records not later than
-- `seen_until` were queued from the log before, which was restored.
CREATE TABLE IF NOT EXISTS place (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    log_id TEXT,
    position INTEGER NOT NULL,
    hint INTEGER,
    last_time TEXT NOT NULL,
    seen_until TEXT NOT NULL
);

-- What is still to be told, in order for each address.
CREATE TABLE IF NOT EXISTS queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    transport TEXT NOT NULL,
    address TEXT NOT NULL,
    position INTEGER NOT NULL,
    queued_at REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_error TEXT NOT NULL DEFAULT '',
    notification BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS queue_by_address ON queue (transport, address, id);

-- The cursor of each address: the last position that it was told of, and how many in all.
CREATE TABLE IF NOT EXISTS told (
    transport TEXT NOT NULL,
    address TEXT NOT NULL,
    log_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    count INTEGER NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (transport, address)
);

-- What a receiver refused for good, kept for people to look at.
CREATE TABLE IF NOT EXISTS set_aside (
    id INTEGER PRIMARY KEY,
    transport TEXT NOT NULL,
    address TEXT NOT NULL,
    position INTEGER NOT NULL,
    at REAL NOT NULL,
    reason TEXT NOT NULL,
    notification BLOB NOT NULL
);
