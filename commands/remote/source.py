"""What an installation over SSH puts on machines, and where those find the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec


class AgentFile(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's bundle: where it lies, its SHA-256 (hex), and for which machines it is."""

    path: Path
    sha256: str
    architecture: str
    python: str


class AgentSource(Protocol):
    """Gives the bundle that this engine serves."""

    async def bundle(self) -> AgentFile:
        """Return the bundle, made at the first call; raises OSError."""
        ...


class EnginePlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where machines find the engine: the URLs of API and gateway."""

    api: str
    gateway: str


BUNDLE_PATH = "/v1/agent"
"""Where the API serves the bundle, under its SHA-256."""
