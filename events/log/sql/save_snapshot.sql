-- Keep a fold's newest snapshot; another schema's is replaced whatever its position.
insert into log.snapshots as kept (name, schema_hash, position, version, state)
values (%(name)s::text, %(schema_hash)s::text, %(position)s::bigint, %(version)s::int,
    %(state)s::bytea)
on conflict (name) do update
set schema_hash = excluded.schema_hash, position = excluded.position, version = excluded.version,
    state = excluded.state, saved = now()
where kept.schema_hash <> excluded.schema_hash or kept.position < excluded.position
