"""Enrolling hosts that share the engine's machine: announce, approve in advance, join."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec

from access.files import make_private_folder, write_atomically
from access.tokens import read_token
from chronovisor.installation import Installation
from hostagent.join import JOINED_NAME, JoinRefusedError, join, load_joined

REQUEST_TIMEOUT_S = 10.0
READY_TIMEOUT_S = 60.0
CLUSTER = "Default"
TOKEN_NAME = "join.token"  # noqa: S105 - of a file
AT_ONCE_MAX = 16


class EnrolmentError(Exception):
    """A host could not be enrolled; the text says why."""


def enrol_hosts(
    installation: Installation, place: Path, names: list[str], hardware: Callable[[str], str]
) -> None:
    """Enrol the hosts that are not yet, each with its state folder `place/<name>`.

    `hardware` gives the hardware id of the machine behind a name. Raises EnrolmentError. Runs in a
    thread: it waits for HTTP answers.
    """
    addresses = installation.read_addresses()
    if addresses is None:
        message = "the engine has not said where it listens"
        raise EnrolmentError(message)
    missing = [name for name in names if not _is_joined(place / name, addresses.gateway)]
    if missing:
        asyncio.run(_enrol_all(installation, addresses.api, place, missing, hardware))


async def _enrol_all(
    installation: Installation,
    url: str,
    place: Path,
    names: list[str],
    hardware: Callable[[str], str],
) -> None:
    """Enrol hosts beside each other; the first that fails ends it."""
    admin_token = read_token(installation.folder.admin_token)
    trust = installation.server_files().trust
    async with httpx.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {admin_token}"},
        verify=ssl.create_default_context(cafile=str(trust)),
        timeout=REQUEST_TIMEOUT_S,
    ) as http:
        cluster = await _find(http, "/v1/clusters", CLUSTER)
        waiting = iter(names)

        async def work() -> None:
            for name in waiting:
                token = await _token(http, place / name, name, cluster)
                try:
                    await join(
                        url,
                        token,
                        place / name,
                        hardware=hardware(name),
                        name=name,
                        approval_timeout_s=READY_TIMEOUT_S,
                    )
                except JoinRefusedError:
                    (place / name / TOKEN_NAME).unlink()
                    raise
                (place / name / TOKEN_NAME).unlink()

        workers = [asyncio.ensure_future(work()) for _ in range(min(AT_ONCE_MAX, len(names)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


async def _token(http: httpx.AsyncClient, folder: Path, name: str, cluster: str) -> str:
    """Return the token to join with: the one that an enrolment which was cut short began with.

    A host that has its certificate gets no other, and its own gives it the same certificate again.
    """
    make_private_folder(folder)
    file = folder / TOKEN_NAME
    if file.exists():
        return file.read_text()
    host = await _announce(http, name, cluster)
    answer = _checked(await http.post(f"/v1/hosts/{host}/enrolment_token", json={}))
    token = str(answer["token"])
    write_atomically(file, token.encode())
    return token


def _is_joined(folder: Path, gateway: str) -> bool:
    """Tell whether a host has joined; and see that it knows where the gateway is now."""
    joined = load_joined(folder)
    if joined is None:
        return False
    if joined.gateway != gateway:
        moved = msgspec.structs.replace(joined, gateway=gateway)
        write_atomically(folder / JOINED_NAME, msgspec.json.encode(moved))
    return True


async def _announce(http: httpx.AsyncClient, name: str, cluster: str) -> str:
    body = {"name": name, "cluster": cluster, "approved": True}
    response = await http.post("/v1/hosts", json=body)
    if response.status_code == httpx.codes.CONFLICT:
        return await _find(http, "/v1/hosts", name)
    return str(_checked(response)["id"])


async def _find(http: httpx.AsyncClient, path: str, name: str) -> str:
    """Return the id of the object of a name; waits for an inventory that is being built."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        response = await http.get(path, params={"name": name})
        found = response.json().get("items", []) if response.is_success else []
        if found:
            return str(found[0]["id"])
        if time.monotonic() > deadline:
            message = f"there is no {name} under {path}: {response.text[:300]}"
            raise EnrolmentError(message)
        await asyncio.sleep(0.2)


def _checked(response: httpx.Response) -> dict[str, Any]:
    if not response.is_success:
        message = f"{response.request.method} {response.request.url.path}: {response.text[:500]}"
        raise EnrolmentError(message)
    answer: dict[str, Any] = response.json()
    return answer
