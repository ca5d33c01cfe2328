-- Read, of each stream, the snapshot of a schema where there is one (a row without a name), and the
-- events behind it, or behind the version given; in order, as of one instant.
with asked as materialized (
    select a.stream, coalesce(s.version, a.after) as after, s.position, s.version, s.state
    from unnest(%(streams)s::text[], %(schema_hashes)s::text[], %(after)s::int[])
            a (stream, schema_hash, after)
        left join log.snapshots s on s.name = a.stream and s.schema_hash = a.schema_hash
)
select position, stream, version, '' as name, 0::smallint as schema, state as payload,
    null::timestamptz as time, null as actor, null::uuid as command, null as correlation,
    null as causation, null as addressee
from asked
where state is not null
union all
select l.position, l.stream, l.version, l.name, l.schema, l.payload, l.time, l.actor, l.command,
    l.correlation, l.causation, l.addressee
from asked,
    lateral (
        select * from log.log l
        where l.stream = asked.stream and l.version > asked.after
        order by l.version offset 0
    ) l
order by version
