"""What a snapshot of a fold over many streams is: tables of states, under a schema hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from commands.kernel.fold import Fold

Tables = Mapping[str, Mapping[str, Any]]


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What a fold's snapshots look like: their name, each table's type of state, and a hash."""

    name: str
    types: dict[str, Any]
    schema_hash: str

    @classmethod
    def of(cls, name: str, revision: int, folds: Iterable[Fold[Any]], **others: Any) -> Shape:  # noqa: ANN401
        """Return the shape of a fold of folds, whose tables are named by their kinds.

        `others` are further tables; raise `revision` when what they mean changes.
        """
        folded = tuple(folds)
        digest = hashlib.sha256(f"{name} {revision}".encode())
        for fold in folded:
            digest.update(fold.schema_hash.encode())
        for table, state in others.items():
            digest.update(f"{table} {state}".encode())
        types = {fold.kind: fold.state for fold in folded} | others
        return cls(name=name, types=types, schema_hash=digest.hexdigest())
