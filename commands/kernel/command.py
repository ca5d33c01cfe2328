"""Commands: declared once, from which route, permission, CLI verb, schema and audit derive.

A command is one file: a frozen Struct with its fields, and a pure `decide` that returns the events
and the answer, or raises a Refusal. See commands/README.md for how to add one.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, Self, TypeVar

import msgspec

from commands.kernel.fold import World
from events.envelope import NewEvent
from events.types.base import Event


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all commands. Path parameters are fields too; they are taken from the path."""

    declaration: ClassVar[Declaration]

    def decide(self, world: World, context: Context) -> Decision:
        """Return what follows from the command; raise a Refusal where it may not be."""
        raise NotImplementedError


def _no_secret(token: str) -> str:
    message = f"no secret is at hand for token {token}"
    raise LookupError(message)


def _no_hosts(cluster: str) -> tuple[str, ...]:
    message = f"the hosts of cluster {cluster} are not at hand"
    raise LookupError(message)


def _no_clusters(data_center: str) -> tuple[str, ...]:
    message = f"the clusters of data center {data_center} are not at hand"
    raise LookupError(message)


class MacsInUse(Protocol):
    """The MAC addresses (as numbers) that NICs have, as far as the process that decides knows."""

    def __contains__(self, address: int) -> bool:
        """Tell whether a NIC has an address."""
        ...

    def count(self, first: int, last: int) -> int:
        """Return how many of the addresses from `first` to `last` NICs have."""
        ...


class NoMacs:
    """No address is known to be in use."""

    def __contains__(self, address: int) -> bool:
        """Tell that none is known."""
        return False

    def count(self, first: int, last: int) -> int:
        """Tell that none is known."""
        del first, last
        return 0


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What comes in with a command from outside of the log: time, ids, actor, precondition.

    `ids` are fresh UUIDv7s for objects that the decision makes; `randoms` are fresh random 64-bit
    numbers. `if_match` is the configuration version that the client saw, if it said so.
    `secret_sha256` gives the hash (hex) of the secret that belongs to an enrolment token's id; the
    secret itself never comes near a decision. `hosts_of` names the hosts of a cluster, and
    `clusters_of` the clusters of a data center, as far as the process that decides knows: one that
    came a moment ago may be missing. So may addresses in `macs`; `macs_refused` are those that this
    command chose before, and that others turned out to have.
    """

    command: uuid.UUID
    time: dt.datetime
    actor: str
    ids: tuple[str, ...]
    randoms: tuple[int, ...] = ()
    if_match: int | None = None
    secret_sha256: Callable[[str], str] = _no_secret
    hosts_of: Callable[[str], tuple[str, ...]] = _no_hosts
    clusters_of: Callable[[str], tuple[str, ...]] = _no_clusters
    macs: MacsInUse = NoMacs()
    macs_refused: tuple[str, ...] = ()


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Events to append and the answer's body; with `operation`, the answer is 202 Accepted.

    `correlation` names the operation that the events belong to, where they do not begin their own.
    """

    events: tuple[NewEvent, ...] = ()
    id: str
    operation: str | None = None
    correlation: str | None = None
    extra: dict[str, Any] = {}

    @classmethod
    def of(cls, object_id: str, *events: NewEvent, operation: str | None = None) -> Self:
        """Make a decision of events given one by one."""
        return cls(events=events, id=object_id, operation=operation)


def on(stream: str, *events: Event) -> tuple[NewEvent, ...]:
    """Put events on a stream."""
    return tuple(NewEvent(stream, event) for event in events)


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """What everything else derives from: OpenAPI, routes, CLI, access checks, documentation.

    `object_kind` is what the permission is asked on; `path` holds `{field}` for path parameters;
    `verb` is the CLI's words. `creates` answers 201 (or 202) with Location.
    """

    name: str
    cls: type[Command]
    method: str
    path: str
    permission: str
    verb: str
    summary: str
    description: str
    creates: bool = False
    long: bool = False
    refusals: tuple[type[Exception], ...] = ()

    @property
    def path_fields(self) -> tuple[str, ...]:
        """The names of the fields that come from the path."""
        return tuple(
            part[1:-1] for part in self.path.split("/") if part.startswith("{") and part[-1] == "}"
        )

    @property
    def body_fields(self) -> tuple[str, ...]:
        """The names of the fields that come from the body."""
        return tuple(f for f in self.cls.__struct_fields__ if f not in self.path_fields)


_declared: dict[str, Declaration] = {}
CommandClass = TypeVar("CommandClass", bound=type[Command])


def command(
    name: str,
    *,
    method: str = "POST",
    path: str,
    permission: str,
    verb: str,
    creates: bool = False,
    long: bool = False,
    refusals: Sequence[type[Exception]] = (),
) -> Callable[[CommandClass], CommandClass]:
    """Declare the decorated Struct as a command. `long`: its answer is 202 with an operation."""

    def declare(cls: CommandClass) -> CommandClass:
        if name in _declared:
            message = f"command {name!r} is declared twice"
            raise ValueError(message)
        lines = (cls.__doc__ or "").strip().splitlines()
        cls.declaration = Declaration(
            name=name,
            cls=cls,
            method=method,
            path=path,
            permission=permission,
            verb=verb,
            summary=lines[0].rstrip("."),
            description=" ".join(line.strip() for line in lines[1:] if line.strip()),
            creates=creates,
            long=long,
            refusals=tuple(refusals),
        )
        _declared[name] = cls.declaration
        return cls

    return declare


def declared_commands() -> dict[str, Declaration]:
    """Return every command declared so far, by name (import commands.catalogue first)."""
    return dict(_declared)
