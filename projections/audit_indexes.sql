-- The key and the indexes of the audit log: made once a build has all of its records.
ALTER TABLE inventory.events ADD PRIMARY KEY (position);
CREATE INDEX events_time ON inventory.events (time);
CREATE INDEX events_object ON inventory.events (object_id, position);
CREATE INDEX events_correlation ON inventory.events (correlation, position)
    WHERE correlation IS NOT NULL;
-- Trouble is rare, and asked for most.
CREATE INDEX events_trouble ON inventory.events (severity, position) WHERE severity <> 'normal';
