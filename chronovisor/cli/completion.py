"""Completion of objects' names in the shell: asked of the engine, if it answers at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chronovisor.cli.connection import connection
from chronovisor.cli.exits import CliError
from chronovisor.cli.kinds import Kind

NAMES_MAX = 100
ANSWER_TIMEOUT_S = 1.5
_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def names_of(kind: Kind) -> Callable[[str], list[str]]:
    """Return what completes the name of an object of a kind; nothing where nobody answers."""

    def complete(incomplete: str) -> list[str]:
        from chronovisor.cli.client import Engine  # noqa: PLC0415 - httpx takes its time

        if not _CHARACTERS.issuperset(incomplete):
            return []
        try:
            place = connection(_environment())
            with Engine(
                place.url, place.token, place.authority, timeout_s=ANSWER_TIMEOUT_S
            ) as engine:
                wanted = {"name": f"{incomplete}*", "fields": "name"}
                page = engine.get(f"/v1/{kind.collection}", {**wanted, "limit": str(NAMES_MAX)})
        except CliError:
            return []
        return [str(item["name"]) for item in page["items"]]

    return complete


def _environment() -> dict[str, Any]:
    """The connection's options as the environment has them: options are not read while typing."""

    def path(name: str) -> Path | None:
        return Path(os.environ[name]) if os.environ.get(name) else None

    return {
        "url": os.environ.get("CHRONOVISOR_URL"),
        "token_file": path("CHRONOVISOR_TOKEN_FILE"),
        "ca_file": path("CHRONOVISOR_CA_FILE"),
    }
