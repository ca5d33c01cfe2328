-- Set a session up as the log needs it. Array statements are planned anew for each call otherwise,
-- and no statement may hang for ever.
select set_config('plan_cache_mode', 'force_generic_plan', false),
    set_config('jit', 'off', false),
    set_config('TimeZone', 'UTC', false),
    set_config('default_transaction_isolation', 'read committed', false),
    set_config('lock_timeout', %(lock_timeout_ms)s, false),
    set_config('statement_timeout', %(statement_timeout_ms)s, false)
