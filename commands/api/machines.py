"""What machines that become hosts get from the engine: the agent's bundle; and its SSH key."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from access.ssh_key import SshKey
from commands.api.problems import Unavailable
from commands.kernel.refusal import NotFound
from commands.remote.source import BUNDLE_PATH, AgentSource

SSH_KEY_PATH = "/v1/ssh_key"
DIGEST_PATH = f"{BUNDLE_PATH}/{{sha256}}"
_encoder = msgspec.json.Encoder()


class EngineSshKey(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's public SSH key, as a line of `authorized_keys`, and its fingerprint."""

    public_key: str
    fingerprint: str


class Machines:
    """Answers for the bundle and the key."""

    def __init__(self, agent: AgentSource, key: SshKey) -> None:
        self._agent = agent
        self._key = key

    async def bundle(self, request: Request) -> Response:
        """Answer the bundle of a SHA-256, if it is the one that this engine has.

        Anybody may have it: there is no secret in it, and who fetches it compares it.
        """
        try:
            found = await self._agent.bundle()
        except OSError as error:
            raise Unavailable("The agent's bundle cannot be made.") from error
        if request.path_params["sha256"] != found.sha256:
            raise NotFound(
                "This engine has another bundle of the agent.",
                remedy="Order the installation again: it names the present one.",
            )
        return FileResponse(found.path, media_type="application/gzip")

    def ssh_key(self) -> Response:
        """Answer the public half of the engine's SSH key."""
        shown = EngineSshKey(public_key=self._key.public, fingerprint=self._key.fingerprint)
        return Response(_encoder.encode(shown), media_type="application/json")
