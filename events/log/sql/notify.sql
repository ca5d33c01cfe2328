-- Tell the readers of other processes how far the log goes.
select pg_notify('log_head', %(head)s::text)
