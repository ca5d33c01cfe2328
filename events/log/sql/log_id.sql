-- Ask which log this is.
select log_id from log.log_identity
