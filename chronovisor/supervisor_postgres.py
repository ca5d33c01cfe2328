"""The embedded PostgreSQL as a part of the supervisor's."""

import signal

from chronovisor.embedded_postgres import EmbeddedPostgres
from chronovisor.supervisor_parts import Part
from chronovisor.supervisor_probes import ready_when_true

STOP_TIMEOUT_S = 30.0
READY_TIMEOUT_S = 60.0


def postgres_part(postgres: EmbeddedPostgres, *, name: str = "postgres") -> Part:
    """The part that runs `postgres`. It is prepared before each start, thus under the lock of the
    supervisor's folder: never before, or a second supervisor would stop the first one's database.
    """
    command = postgres.command()

    def explain(log_text: str) -> str | None:
        refusal = postgres.explain(log_text)
        return None if refusal is None else str(refusal)

    return Part(
        name=name,
        argv=command.argv,
        environment=command.environment,
        inherit_environment=False,
        working_folder=command.working_folder,
        uid=command.uid,
        gid=command.gid,
        before_start=postgres.prepare,
        explain=explain,
        ready=ready_when_true(postgres.ready),
        ready_timeout_s=READY_TIMEOUT_S,
        stop_signal=command.stop_signal,
        stop_timeout_s=STOP_TIMEOUT_S,
        # A quick but clean end; what is killed outright leaves its backends and memory behind.
        death_signal=signal.SIGINT,
    )
