-- Read the events addressed to a host in order.
select position, stream, version, name, schema, payload, time, actor, command, correlation,
    causation, addressee
from log.log
where addressee = %(host)s::text and position > %(after)s::bigint
order by position
limit %(limit)s::int
