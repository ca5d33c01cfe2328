"""Refusals: why a command is not accepted, in words that an admin can act on.

A refusal is a class: its docstring's first line is the problem's title, its name the problem's
type, its status the HTTP status. Instances carry the detail and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar

_registered: dict[str, type[Refusal]] = {}


class Refusal(Exception):
    """The command was refused"""  # noqa: D400 - a title, not a sentence

    status: ClassVar[int] = 409

    def __init__(self, detail: str, *, remedy: str = "", **extra: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy
        self.extra = extra

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _registered[cls.slug()] = cls

    @classmethod
    def slug(cls) -> str:
        """The problem's type: the class name in kebab case."""
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in cls.__name__).lstrip("-")

    @classmethod
    def title(cls) -> str:
        """The problem's title."""
        return (cls.__doc__ or cls.__name__).strip().splitlines()[0].rstrip(".")


def registered_refusals() -> dict[str, type[Refusal]]:
    """Return every refusal there is, by slug."""
    return dict(_registered)


class NotFound(Refusal):
    """There is no such object."""

    status = 404


class InvalidField(Refusal):
    """A field has a value that is not allowed."""

    status = 422


class NameTaken(Refusal):
    """The name is in use."""


class InUse(Refusal):
    """The object is in use."""


class WrongState(Refusal):
    """The object is in a state that does not allow this."""


class PreconditionFailed(Refusal):
    """The object was changed meanwhile."""

    status = 412


class KeyReusedWithOtherBody(Refusal):
    """The Idempotency-Key was used with another body."""

    status = 422


class TooMuchContention(Refusal):
    """The object is being changed by others."""
