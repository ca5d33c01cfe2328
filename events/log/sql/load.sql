-- Read the events of a stream in order.
select position, stream, version, name, schema, payload, time, actor, command, correlation,
    causation, addressee
from log.log
where stream = %(stream)s::text and version > %(after)s::int
order by version
