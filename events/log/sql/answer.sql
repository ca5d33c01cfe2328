-- Look a stored answer up.
select body_mac, answer, first, count, time
from log.answers
where principal = %(principal)s::text and key = %(key)s::text
