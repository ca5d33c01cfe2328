-- The tables of the log (contract A). yoyo runs this with search_path set to the schema `log`.

-- All events there ever were, at positions 1..n without a gap. Insert only: never updated, never
-- pruned. Fixed-width columns stand first, which saves the padding between them.
create table log.log (
    position bigint not null,
    time timestamptz not null,
    command uuid not null,
    version int not null,
    schema smallint not null,
    stream text collate "C" not null,
    name text collate "C" not null,
    actor text collate "C" not null,
    correlation text collate "C",
    causation text collate "C",
    addressee text collate "C",
    payload bytea not null,
    primary key (position),
    unique (stream, version)
);

-- The orders for a host, in order.
create index log_addressee on log.log (addressee, position) where addressee is not null;

-- Who holds what: the fold of all events' claims. A row's mode says whether others may hold the key.
create table log.claims (
    key text collate "C" not null,
    holder text collate "C" not null,
    mode text collate "C" not null check (mode in ('exclusive', 'shared', 'amount')),
    amount bigint not null default 0,
    primary key (key, holder)
) with (fillfactor = 80);

-- Whether a key is held exclusively is asked for keys that a hundred thousand others share.
create index claims_exclusive on log.claims (key, holder) where mode = 'exclusive';

-- The answers of accepted commands, for whoever asks again under the same key.
create table log.answers (
    principal text collate "C" not null,
    key text collate "C" not null,
    body_mac bytea not null,
    answer bytea not null,
    first bigint not null,
    count int not null,
    time timestamptz not null,
    primary key (principal, key)
);

-- Old answers are found by their time; they lie in its order, so a summary of blocks is enough.
create index answers_time on log.answers using brin (time) with (pages_per_range = 32);

-- Which log this is: one row. A restored log gets another id (`log.renew_identity`).
create table log.log_identity (
    singleton boolean primary key default true check (singleton),
    log_id uuid not null default gen_random_uuid(),
    since timestamptz not null default now()
);

insert into log.log_identity default values;

-- The states of folds at a position, so that a start reads only the tail of the log.
create table log.snapshots (
    name text collate "C" primary key,
    schema_hash text collate "C" not null,
    position bigint not null,
    version int not null,
    state bytea not null,
    saved timestamptz not null default now()
);
