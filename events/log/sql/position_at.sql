-- Find the last position whose time is not after an instant.
select log.position_at(%(time)s::timestamptz)
