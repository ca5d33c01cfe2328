-- Ask for what makes a commit durable; the log refuses to work without.
select current_setting('server_version_num')::int, current_setting('fsync'),
    current_setting('synchronous_commit')
