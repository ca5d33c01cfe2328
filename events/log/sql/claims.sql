-- Read the whole table of claims, for comparing it with the fold of the events.
select key, holder, mode, amount from log.claims
