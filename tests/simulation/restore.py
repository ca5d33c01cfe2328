"""A restored backup: what `chronovisor restore` makes of a log, done to one in memory."""

from __future__ import annotations

import datetime as dt
import uuid

from chronovisor.backup_restore_log import EPOCH
from events.codec import CODEC
from events.log.claims import plan
from events.log.memory import MemoryLog
from events.types.base import Event
from events.types.host import HostAdded, HostRemoved, HostStateUnconfirmed
from events.types.log import LogRestored


def cut_back(log: MemoryLog, position: int, log_id: uuid.UUID) -> MemoryLog:
    """Return another log with the events up to a position, their claims and answers."""
    cut = MemoryLog(log_id)
    for stored in log._events[:position]:
        cut._events.append(stored)
        cut._times.append(stored.time)
        cut._streams.setdefault(stored.stream, []).append(stored)
        if stored.addressee is not None:
            cut._addressed.setdefault(stored.addressee, []).append(stored)
        recorded = CODEC.decode(stored)
        cut._claims.apply(plan(recorded.event.claims(stored.stream)).effects)
    for key, answer in log._answers.items():
        if answer.first + answer.count - 1 <= position:
            cut._answers[key] = answer
    return cut


def last_command(log: MemoryLog, position: int) -> int:
    """Return the position of the last event of the command that a position lies in."""
    events = log._events
    while 0 < position < len(events) and events[position].command == events[position - 1].command:
        position += 1
    return position


def what_a_restore_means(log: MemoryLog, position: int, now: dt.datetime) -> dict[str, list[Event]]:
    """Return the events behind those of the backup, by stream: as `chronovisor restore` does."""
    hosts: dict[str, str] = {}
    earlier = [0]
    for stored in log._events:
        event = CODEC.decode(stored).event
        if isinstance(event, HostAdded):
            hosts[stored.stream] = event.name
        elif isinstance(event, HostRemoved):
            hosts.pop(stored.stream, None)
        elif isinstance(event, LogRestored):
            earlier.append(event.incarnations_from + 1)
    incarnations_from = max([int((now - EPOCH).total_seconds()), *earlier])
    restored = LogRestored(
        previous_log=str(uuid.UUID(int=0)),
        position=position,
        taken=log._times[-1] if log._times else now,
        hosts=len(hosts),
        incarnations_from=incarnations_from,
    )
    meant: dict[str, list[Event]] = {f"log/{log.log_id}": [restored]}
    for stream, name in sorted(hosts.items()):
        meant[stream] = [HostStateUnconfirmed(name=name, incarnations_from=incarnations_from)]
    return meant
