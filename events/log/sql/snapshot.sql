-- Look a fold's snapshot up; one of another schema is of no use.
select position, version, state
from log.snapshots
where name = %(name)s::text and schema_hash = %(schema_hash)s::text
