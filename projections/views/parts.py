"""What the views share: how a fold is declared, and the small structures of the documents."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from events.envelope import Recorded
from events.types.base import Event
from events.types.migration import CopyProgress

Time = Annotated[dt.datetime, msgspec.Meta(tz=True)]
"""A time with its zone, shown as RFC 3339 has it."""


class Reference(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Another object: its id, and its name as people know it."""

    id: str
    name: str


class Link(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Another object by its id alone (its name may change, and is read where the object is)."""

    id: str


class ObjectReference(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An object of any kind (`vm`, `host`, `cluster`, `data_center`, `operation`)."""

    kind: str
    id: str


class Counts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How many objects belong to this one, and how many of them are up."""

    total: int = 0
    up: int = 0


class OperationInProgress(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Work on the object that has not ended; `detail` is about the step that is under way, and
    `copying` a migration's figures.

    With status `needs_attention`, `reason`, `waits_for` and `remedy` say why it stands still, for
    what it waits, and what a person can do about it.
    """

    id: str
    kind: str
    status: str
    percent: int = 0
    detail: str = ""
    copying: CopyProgress | None = None
    reason: str = ""
    waits_for: str = ""
    remedy: str = ""


Document = TypeVar("Document", bound=msgspec.Struct)
Changes = dict[str, Any]
Change = Callable[[Any, Any, Recorded], Changes]
"""`(document, event, recorded)` to the fields that become different."""


class View(Generic[Document]):
    """How the documents of one kind of object follow from the events of their own streams.

    `created` is the event type that makes a document and `removed` the one that ends it; `changes`
    has a function for each type that alters it, and `ignores` names the rest, so that a test can
    tell a type that is left out on purpose from one that was forgotten.
    """

    def __init__(
        self,
        kind: str,
        document: type[Document],
        *,
        created: type[Event],
        create: Callable[[Any, Recorded], Document],
        changes: Mapping[type[Event], Change],
        removed: type[Event] | None = None,
        ignores: frozenset[type[Event]] = frozenset(),
    ) -> None:
        self.kind = kind
        self.document = document
        self.created = created
        self.removed = removed
        self.changes = changes
        self.ignores = ignores
        self._create = create

    def evolve(self, document: Document | None, recorded: Recorded) -> Document | None:
        """Return the document after one event of its stream; None once the object is gone."""
        event = recorded.event
        change = self.changes.get(type(event))
        if change is not None:
            if document is None:
                return None
            return msgspec.structs.replace(
                document,
                version=recorded.version,
                updated_at=recorded.time,
                updated_by=recorded.actor,
                **change(document, event, recorded),
            )
        if type(event) is self.created:
            return self._create(event, recorded)
        if type(event) is self.removed:
            return None
        return document


def spoken(status: str) -> str:
    """Return a status as people say it: `powering_up` is `powering up`."""
    return status.replace("_", " ")


def with_operation(
    operations: tuple[OperationInProgress, ...], operation: OperationInProgress
) -> tuple[OperationInProgress, ...]:
    """Return the operations in progress with this one in its place, or as the newest."""
    if any(other.id == operation.id for other in operations):
        return tuple(operation if other.id == operation.id else other for other in operations)
    return (*operations, operation)


def without_operation(
    operations: tuple[OperationInProgress, ...], operation: str
) -> tuple[OperationInProgress, ...]:
    """Return the operations in progress without the one of this id."""
    return tuple(other for other in operations if other.id != operation)
