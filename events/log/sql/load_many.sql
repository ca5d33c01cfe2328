-- Read the events of several streams, each in order, as of one instant.
select l.position, l.stream, l.version, l.name, l.schema, l.payload, l.time, l.actor, l.command,
    l.correlation, l.causation, l.addressee
from unnest(%(streams)s::text[], %(after)s::int[]) with ordinality asked (stream, after, number),
    lateral (
        select * from log.log l
        where l.stream = asked.stream and l.version > asked.after
        order by l.version offset 0
    ) l
order by asked.number, l.version
