"""The settings files of the embedded PostgreSQL.

They are written anew at each start, belong to whoever runs the engine, and can be read but not
changed by PostgreSQL's own user. `local.conf` in the data folder comes last and may override them.
"""

CONFIGURATION_NAME = "postgresql.conf"
AUTHENTICATION_NAME = "pg_hba.conf"

# Passwords everywhere, on the socket too: other users of this machine are not trusted.
AUTHENTICATION = """\
local all all              scram-sha-256
host  all all 127.0.0.1/32 scram-sha-256
"""

_CONFIGURATION = """\
# Written by Chronovisor at each start. Put changes into local.conf beside this file.

# Whoever can enter the data folder reaches the socket: it lies in it, by a relative path, since the
# absolute one may be too long and lead through folders that PostgreSQL's user cannot enter.
unix_socket_directories = '.'
unix_socket_permissions = 0700
listen_addresses = '{listen_addresses}'
port = {port}
max_connections = {connections_max}
client_connection_check_interval = '10s'
password_encryption = 'scram-sha-256'

# The log of events is the one truth: an answer is durable before it is given.
fsync = on
synchronous_commit = on
full_page_writes = on
wal_compression = on
checkpoint_timeout = '15min'
max_wal_size = '1GB'
min_wal_size = '80MB'

# Memory is reserved, not used, until there is something to keep in it.
shared_buffers = '{shared_buffers_mib}MB'
# Those that were set aside are for VMs: PostgreSQL would take what it finds.
huge_pages = off
io_workers = 2
max_logical_replication_workers = 0
jit = off
random_page_cost = 1.1

# The event log only grows. Vacuum early and often, so that each round is small, marks pages as
# visible to all (index-only scans), and freezes rows long before a forced vacuum would.
autovacuum_naptime = '30s'
autovacuum_max_workers = 2
autovacuum_vacuum_insert_threshold = 10000
autovacuum_vacuum_insert_scale_factor = 0.02
autovacuum_analyze_scale_factor = 0.02
autovacuum_freeze_max_age = 500000000

# A process that is paused in a transaction must not hold its locks for ever.
idle_in_transaction_session_timeout = '5min'

# Messages go to standard error, in English, without parameters, rows and statements: those may
# hold what must not lie in a log file.
log_destination = 'stderr'
logging_collector = off
log_line_prefix = '%m [%p] '
log_timezone = 'UTC'
timezone = 'UTC'
lc_messages = 'C'
log_checkpoints = off
log_error_verbosity = 'terse'
log_min_error_statement = 'panic'
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0

include_if_exists = 'local.conf'
"""


def configuration(
    *, tcp_port: int, unix_port: int, shared_buffers_mib: int, connections_max: int
) -> str:
    """The text of postgresql.conf. With `tcp_port` 0 only the Unix socket is served."""
    return _CONFIGURATION.format(
        listen_addresses="127.0.0.1" if tcp_port else "",
        port=tcp_port or unix_port,
        shared_buffers_mib=shared_buffers_mib,
        connections_max=connections_max,
    )
