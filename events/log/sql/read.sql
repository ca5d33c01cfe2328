-- Read events in the order of their positions.
select position, stream, version, name, schema, payload, time, actor, command, correlation,
    causation, addressee
from log.log
where position > %(after)s::bigint
order by position
limit %(limit)s::int
