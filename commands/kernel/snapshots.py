"""Snapshots of folds over many streams, so that a start reads only the log's tail (contract A).

Such a fold is a few tables of frozen states. They are stored in chunks, compressed, as
`<fold>/<slot>/<number>`, and then the head `<fold>/<slot>`, which says how many there are. There
are two slots, written in turn: whatever is killed or comes between, one of them is whole; and what
is not whole, or of another schema, is passed over, since all can be folded anew.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import zlib
from typing import Any, Protocol

import msgspec
import structlog

from commands.kernel.shapes import Shape, Tables
from events.log.port import LogReader, OverloadedError, Snapshot, UnavailableError

CHUNK_STATES = 500
EVENTS_BETWEEN = 100_000
"""A start folds at most about so many events; a fold is written once in so many."""
SLOTS = 2
_COMPRESSION = 1

log = structlog.get_logger(__name__)


class StoredFold(Protocol):
    """A fold that can be put away and taken up again."""

    position: int

    def tables(self) -> Tables:
        """Return copies of the tables; their states are frozen."""
        ...

    def restore(self, position: int, tables: Tables) -> None:
        """Take up what was put away at a position."""
        ...


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    chunks: int


class _Chunk(msgspec.Struct, frozen=True, kw_only=True):
    table: str
    states: msgspec.Raw


class Keeper:
    """Keeps the snapshots of one fold of this process."""

    def __init__(
        self, reader: LogReader, shape: Shape, *, events_between: int = EVENTS_BETWEEN
    ) -> None:
        self._reader = reader
        self._shape = shape
        self._events_between = events_between
        self._saved = 0
        self._slot = 0
        self._saving: asyncio.Task[None] | None = None

    async def restore(self, fold: StoredFold) -> None:
        """Give an empty fold the newest whole snapshot, if there is any."""
        heads: list[tuple[int, int, _Head]] = []
        for slot in range(SLOTS):
            found = await self._reader.snapshot(self._head(slot), self._shape.schema_hash)
            if found is not None:
                heads.append((found.position, slot, msgspec.json.decode(found.state, type=_Head)))
        for position, slot, head in sorted(heads, key=lambda one: -one[0]):
            enabled = gc.isenabled()
            gc.disable()  # a hundred thousand states are built, and none of them is garbage
            try:
                tables = await self._load(position, slot, head.chunks)
                if tables is None:
                    continue
                fold.restore(position, tables)
            finally:
                if enabled:
                    gc.enable()
            gc.freeze()
            self._saved, self._slot = position, (slot + 1) % SLOTS
            log.info("a snapshot is taken up", fold=self._shape.name, position=position)
            return

    def look(self, fold: StoredFold) -> None:
        """Begin to write a snapshot beside all else if enough has happened since the last."""
        if self._saving is not None and not self._saving.done():
            return
        if fold.position - self._saved >= self._events_between:
            self._saving = asyncio.create_task(self._try(fold.position, fold.tables()))

    async def save(self, fold: StoredFold) -> None:
        """Write a snapshot now."""
        await self._save(fold.position, fold.tables())

    async def close(self) -> None:
        """Give up what is being written; the other slot is whole."""
        if self._saving is not None:
            self._saving.cancel()
            await asyncio.gather(self._saving, return_exceptions=True)

    async def _try(self, position: int, tables: Tables) -> None:
        try:
            await self._save(position, tables)
        except (UnavailableError, OverloadedError) as error:
            log.warning("no snapshot", fold=self._shape.name, reason=str(error))

    async def _save(self, position: int, tables: Tables) -> None:
        slot, number = self._slot, 0
        for table, states in tables.items():
            items = iter(states.items())
            while some := dict(itertools.islice(items, CHUNK_STATES)):
                chunk = _Chunk(table=table, states=msgspec.Raw(msgspec.json.encode(some)))
                content = msgspec.json.encode(chunk)
                packed = await asyncio.to_thread(zlib.compress, content, _COMPRESSION)
                await self._put(f"{self._head(slot)}/{number}", position, packed)
                number += 1
        await self._put(self._head(slot), position, msgspec.json.encode(_Head(chunks=number)))
        self._saved, self._slot = position, (slot + 1) % SLOTS
        log.info("a snapshot is written", fold=self._shape.name, position=position, chunks=number)

    async def _put(self, name: str, position: int, state: bytes) -> None:
        await self._reader.save_snapshot(
            Snapshot(
                name=name,
                schema_hash=self._shape.schema_hash,
                position=position,
                version=0,
                state=state,
            )
        )

    async def _load(self, position: int, slot: int, chunks: int) -> Tables | None:
        tables: dict[str, dict[str, Any]] = {table: {} for table in self._shape.types}
        decoders = {
            table: msgspec.json.Decoder(dict[str, state])  # type: ignore[valid-type]
            for table, state in self._shape.types.items()
        }
        for number in range(chunks):
            name = f"{self._head(slot)}/{number}"
            found = await self._reader.snapshot(name, self._shape.schema_hash)
            if found is None or found.position != position:
                log.warning("a snapshot is not whole", fold=self._shape.name, position=position)
                return None
            chunk = msgspec.json.decode(zlib.decompress(found.state), type=_Chunk)
            tables[chunk.table].update(decoders[chunk.table].decode(chunk.states))
        return tables

    def _head(self, slot: int) -> str:
        return f"{self._shape.name}/{slot}"
