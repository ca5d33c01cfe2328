-- Forget a bounded number of answers whose keys nobody may repeat any more.
delete from log.answers
where ctid = any (array(
    select ctid from log.answers
    where time < now() - make_interval(days => %(days)s::int)
    limit %(limit)s::int
))
