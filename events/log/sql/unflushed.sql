-- Let commits of this session not wait for the disk: for words of what is durable already.
select set_config('synchronous_commit', 'off', false)
