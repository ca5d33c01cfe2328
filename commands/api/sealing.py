"""Secrets in bodies: they go into the vault before anything is decided about them.

The decision, and so every event and answer, gets the vault's reference in the secret's place. What
was put there for a command that is refused, or was accepted before, is taken out again; what is
left over by a crash in between, nobody refers to, and the vault's keeper forgets it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec
from msgspec.inspect import Field, Metadata, StructType, Type, UnionType, type_info

from access.vault import Vault
from commands.kernel.command import Command, Declaration
from commands.kernel.fields import SECRET
from commands.kernel.handler import Accepted
from commands.kernel.refusal import Refusal
from events.log.port import UnavailableError

Given = TypeVar("Given", bound=Command)


def secret_fields(declaration: Declaration) -> tuple[str, ...]:
    """Return the names of a command's fields that hold secrets."""
    info = type_info(declaration.cls)
    fields: tuple[Field, ...] = info.fields if isinstance(info, StructType) else ()
    return tuple(field.name for field in fields if _is_secret(field.type))


class Sealed(msgspec.Struct):
    """A command whose secrets lie in the vault; `accepted` is set by who had it accepted."""

    command: Command
    accepted: Accepted | None = None


@contextlib.asynccontextmanager
async def sealed(vault: Vault, command: Command, fields: tuple[str, ...]) -> AsyncIterator[Sealed]:
    """Put a command's secrets into the vault, and keep them there if it is accepted within."""
    given = {name: value for name in fields if isinstance(value := getattr(command, name), str)}
    references: dict[str, str] = {}
    for name, secret in given.items():
        references[name] = await vault.put(secret)
    held = Sealed(msgspec.structs.replace(command, **references))
    try:
        yield held
    except Refusal:
        await _forget(vault, references)
        raise
    if held.accepted is not None and held.accepted.repeated:
        await _forget(vault, references)


async def _forget(vault: Vault, references: dict[str, str]) -> None:
    with contextlib.suppress(UnavailableError):  # the vault's keeper will
        await vault.delete(*references.values())


def _is_secret(kind: Type) -> bool:
    if isinstance(kind, UnionType):
        return any(_is_secret(each) for each in kind.types)
    return isinstance(kind, Metadata) and bool((kind.extra or {}).get(SECRET))
