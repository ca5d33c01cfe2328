"""What chaos does: to each process, to the disks, to what is outside. Every fault mends itself.

A fault is a word to people, what it is done to, and an action that returns once the trouble is over
as far as the fault goes: what was killed may still be starting. Actions draw their lengths from the
dice that they are given, so that a seed gives the same faults again.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import LiteralString

import psycopg

from chronovisor.embedded_postgres import EmbeddedPostgres
from chronovisor.installation import Installation
from tests.harness.processes import (
    descendants,
    pause_tree,
    resume_tree,
    send_signal,
    wait_until,
)
from tests.system.product import Product
from tests.system.small_disk import SmallDisk
from tests.system.stage import Stage

PARTS = ("engine", "policies", "projector", "relay", "dwh", "notifier", "fleet", "postgres")
TROUBLE_MIN_S, TROUBLE_MAX_S = 1.0, 6.0
START_TIMEOUT_S = 60.0
BACKENDS = """
select pg_terminate_backend(pid) from pg_stat_activity
where usename = current_user and pid <> pg_backend_pid()
"""
# The server lives and answers its administrator. Past the limit of a database a connection is
# refused with 53300 (too many connections), those that there are go on; a database that takes no
# connections refuses with 55000.
LIMIT_CONNECTIONS: LiteralString = "alter database chronovisor connection limit 0"
REFUSE_CONNECTIONS: LiteralString = "alter database chronovisor allow_connections false"
CUT_CONNECTIONS: LiteralString = (
    "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'chronovisor'"
)
ACCEPT_CONNECTIONS: LiteralString = (
    "alter database chronovisor allow_connections true connection limit -1"
)
Action = Callable[[random.Random], object]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong. Faults with one target, or a target `all`, never overlap."""

    name: str
    target: str
    act: Action

    def overlaps(self, other: Fault) -> bool:
        """Whether the two would trip over each other."""
        return self.target == other.target or "all" in {self.target, other.target}


def catalogue(stage: Stage) -> list[Fault]:
    """Return every fault that the stage knows."""
    found: list[Fault] = []
    for part in PARTS:
        found += _of_part(stage, part)
    found += [*_of_database(stage), *_of_host(stage), *_of_outside(stage)]
    found += [_full(name, target, [stage.disks[name]]) for name, target in _DISKS.items()]
    ours = [disk for name, disk in stage.disks.items() if name != "agent"]
    found.append(_full("everything", "all", ours))
    found.append(
        Fault(name="kill everything", target="all", act=lambda _dice: stage.restart_everything())
    )
    return found


_DISKS = {
    "postgres": "postgres",
    "warehouse": "dwh",
    "notifier": "notifier",
    "hosts": "fleet",
    "agent": "agent",
}


def in_turn(faults: Sequence[Fault], dice: random.Random) -> Iterator[Fault]:
    """Yield faults without end: all of them in a shuffled order, and again in another."""
    while True:
        bag = list(faults)
        dice.shuffle(bag)
        yield from bag


def _trouble(dice: random.Random) -> None:
    time.sleep(dice.uniform(TROUBLE_MIN_S, TROUBLE_MAX_S))


def _while(begin: Callable[[], object], end: Callable[[], object]) -> Action:
    """Return an action that begins a trouble, lets it last, and ends it."""

    def act(dice: random.Random) -> None:
        begin()
        try:
            _trouble(dice)
        finally:
            end()

    return act


def part_pid(stage: Stage, part: str) -> int:
    """Return the process id of a part, once it has one."""
    return wait_until(
        lambda: stage.product.pid(part),
        START_TIMEOUT_S,
        f"{part} to run",
        tolerate=(AssertionError,),
    )


def _of_part(stage: Stage, part: str) -> list[Fault]:
    def kill(dice: random.Random) -> None:
        send_signal(part_pid(stage, part), signal.SIGKILL)

    def kill_again_and_again(dice: random.Random) -> None:
        for _ in range(3):
            send_signal(part_pid(stage, part), signal.SIGKILL)
            time.sleep(dice.uniform(0.1, 1.5))

    def freeze(dice: random.Random) -> None:
        pid = part_pid(stage, part)
        pause_tree(pid)
        try:
            _trouble(dice)
        finally:
            resume_tree(pid)

    return [
        Fault(name=f"kill {part}", target=part, act=kill),
        Fault(name=f"kill {part} again and again", target=part, act=kill_again_and_again),
        Fault(name=f"freeze {part}", target=part, act=freeze),
    ]


def _of_database(stage: Stage) -> list[Fault]:
    def restart(dice: random.Random) -> None:
        send_signal(part_pid(stage, "postgres"), signal.SIGINT)

    def crash(dice: random.Random) -> None:
        """Kill a backend: the server takes all others down and recovers from its log."""
        backends = descendants(part_pid(stage, "postgres"))
        if backends:
            send_signal(dice.choice(backends), signal.SIGKILL)

    def cut(dice: random.Random) -> None:
        dsn = Installation.open(stage.product.root).dsn()
        with contextlib.suppress(psycopg.Error), psycopg.connect(dsn) as connection:
            connection.execute(BACKENDS)

    def tell(statement: LiteralString) -> None:
        tell_postgres(stage.product, statement)

    def accept_no_more() -> None:
        tell(LIMIT_CONNECTIONS)

    def accept_none() -> None:
        tell(REFUSE_CONNECTIONS)
        tell(CUT_CONNECTIONS)

    def accept_again() -> None:
        tell(ACCEPT_CONNECTIONS)

    return [
        Fault(name="restart postgres", target="postgres", act=restart),
        Fault(name="kill a backend of postgres", target="postgres", act=crash),
        Fault(name="cut all connections to postgres", target="postgres", act=cut),
        Fault(
            name="have postgres accept no new connection",
            target="postgres",
            act=_while(accept_no_more, accept_again),
        ),
        Fault(
            name="have postgres cut all connections and accept none",
            target="postgres",
            act=_while(accept_none, accept_again),
        ),
    ]


def tell_postgres(product: Product, statement: LiteralString) -> None:
    """Have the database's administrator, whom none of its limits holds up, say something."""
    dsn = EmbeddedPostgres(Installation.open(product.root).folder.postgres).admin_dsn

    def told() -> bool:
        with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement)
        return True

    wait_until(
        told, START_TIMEOUT_S, "postgres to take a setting", tolerate=(psycopg.OperationalError,)
    )


def _of_host(stage: Stage) -> list[Fault]:
    host, machine = stage.host, stage.host.machine
    manager = f"{machine.manager_address}/32"
    unreachable = ["unreachable", manager]
    # To the host's own kernel, where nothing listens: it refuses new connections (ECONNREFUSED) and
    # resets those that there are, as a machine does whose service is not there.
    refused = ["local", manager, "dev", "lo"]

    def restart_agent(dice: random.Random) -> None:
        host.agent.kill()
        time.sleep(dice.uniform(0.0, 2.0))
        host.start_agent()

    def freeze_agent() -> None:
        host.agent.pause()

    def thaw_agent() -> None:
        host.agent.resume()

    def kill_libvirtd(dice: random.Random) -> None:
        machine.kill_libvirtd()
        machine.wait_for_libvirtd()

    def routed(way: Sequence[str]) -> Action:
        return _while(
            lambda: machine.run(["ip", "route", "add", *way]),
            lambda: machine.run(["ip", "route", "delete", *way]),
        )

    def freeze_libvirtd(dice: random.Random) -> None:
        machine.wait_for_libvirtd()
        with machine.libvirtd_paused():
            _trouble(dice)

    return [
        Fault(name="kill agent", target="agent", act=restart_agent),
        Fault(
            name="freeze agent",
            target="agent",
            act=_while(freeze_agent, thaw_agent),
        ),
        Fault(name="kill libvirtd", target="libvirtd", act=kill_libvirtd),
        Fault(name="freeze libvirtd", target="libvirtd", act=freeze_libvirtd),
        Fault(
            name="cut the host off", target="cable", act=_while(machine.cut_off, machine.join_again)
        ),
        Fault(name="leave the host no route", target="cable", act=routed(unreachable)),
        Fault(name="refuse the host's connections", target="cable", act=routed(refused)),
    ]


def _of_outside(stage: Stage) -> list[Fault]:
    kafka, smtp, snmp = stage.parts.kafka, stage.parts.smtp, stage.parts.snmp

    def restart_kafka(dice: random.Random) -> None:
        kafka.restart()

    def refuse_mails(dice: random.Random) -> None:
        smtp.refuse_next(dice.randint(1, 5))

    return [
        Fault(name="kill kafka", target="kafka", act=_while(kafka.kill, kafka.start)),
        Fault(name="restart kafka", target="kafka", act=restart_kafka),
        Fault(name="freeze kafka", target="kafka", act=_while(kafka.pause, kafka.resume)),
        Fault(name="stop the mail server", target="smtp", act=_while(smtp.stop, smtp.start)),
        Fault(name="refuse mails", target="smtp", act=refuse_mails),
        Fault(name="stop the SNMP manager", target="snmp", act=_while(snmp.stop, snmp.start)),
        Fault(name="freeze the SNMP manager", target="snmp", act=_while(snmp.pause, snmp.resume)),
    ]


def _full(name: str, target: str, disks: Sequence[SmallDisk]) -> Fault:
    def fill() -> None:
        for disk in disks:
            disk.fill()

    def free() -> None:
        for disk in disks:
            disk.free()

    return Fault(name=f"fill the disk of {name}", target=target, act=_while(fill, free))
