"""Watches: how policies begin operations that nobody asked for, each once (contract B).

A watch is told of every change of what it may care about, and says from that alone what is to be
begun now. It holds nothing that does not follow from the states: after a takeover, or a start from
a snapshot, it is told of all of them again, each as a change from None.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Sequence

import msgspec

from commands.kernel.command import Context, Decision
from commands.kernel.fold import World
from commands.kernel.refusal import Refusal
from commands.policies.facts import Facts
from commands.policies.observer import Observer

_NAMESPACE = uuid.UUID("6f7b5f0e-6f0e-5d0c-9a55-3f1f6f6d2c11")
"""Where the ids of operations lie that a cause begins."""


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """An operation that is to be begun because of `cause`, on the object `target` (a stream).

    The cause says why, and how often: `ha/<vm>/<incarnation>/2`, `host/<id>@17`. One cause begins
    one operation on one target, ever. `decide` is a command's decision, mostly a verb's own.
    """

    cause: str
    target: str
    decide: Callable[[World, Context], Decision]

    @property
    def operation(self) -> uuid.UUID:
        """The id of the operation, which is the command's id as well."""
        return operation_of(self.cause, self.target)


def operation_of(cause: str, target: str) -> uuid.UUID:
    """Return the id of the operation that a cause begins on a target."""
    return uuid.uuid5(_NAMESPACE, f"{cause} {target}")


class Watch(Observer):
    """Base of all watches. `due` is asked after every batch of events, so it must be quick."""

    def due(self, facts: Facts, now: dt.datetime) -> Sequence[Beginning]:
        """Return what is to be begun now, the most urgent first.

        What was returned and begun shows in the states, and is not to be returned again.
        """
        del facts, now
        return ()

    def woken(self, facts: Facts, now: dt.datetime) -> Sequence[str]:
        """Return the ids of operations to be moved again, the most urgent first.

        For those that wait for something which does not happen to them; asked after every batch.
        """
        del facts, now
        return ()

    def next_due(self, now: dt.datetime) -> dt.datetime | None:
        """Return when `due` should be asked again though nothing happens; None for never."""
        del now
        return None

    def refused(self, beginning: Beginning, refusal: Refusal) -> None:
        """Learn that a command refused; it is tried again after `Timeouts.retry_s`."""
