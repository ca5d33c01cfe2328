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

from access.files import write_atomically
from access.tokens import read_token
from chronovisor.installation import Installation
from hostagent.join import JOINED_NAME, join, load_joined

REQUEST_TIMEOUT_S = 10.0
READY_TIMEOUT_S = 60.0
CLUSTER = "Default"


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
    if not missing:
        return
    trust = installation.server_files().trust
    token = read_token(installation.folder.admin_token)
    with httpx.Client(
        base_url=addresses.api,
        headers={"Authorization": f"Bearer {token}"},
        verify=ssl.create_default_context(cafile=str(trust)),
        timeout=REQUEST_TIMEOUT_S,
    ) as http:
        cluster = _find(http, "/v1/clusters", CLUSTER)
        for name in missing:
            host = _announce(http, name, cluster)
            answer = _checked(http.post(f"/v1/hosts/{host}/enrolment_token", json={}))
            asyncio.run(
                join(
                    addresses.api,
                    answer["token"],
                    place / name,
                    hardware=hardware(name),
                    name=name,
                    approval_timeout_s=READY_TIMEOUT_S,
                )
            )


def _is_joined(folder: Path, gateway: str) -> bool:
    """Tell whether a host has joined; and see that it knows where the gateway is now."""
    joined = load_joined(folder)
    if joined is None:
        return False
    if joined.gateway != gateway:
        moved = msgspec.structs.replace(joined, gateway=gateway)
        write_atomically(folder / JOINED_NAME, msgspec.json.encode(moved))
    return True


def _announce(http: httpx.Client, name: str, cluster: str) -> str:
    response = http.post("/v1/hosts", json={"name": name, "cluster": cluster, "approved": True})
    if response.status_code == httpx.codes.CONFLICT:
        return _find(http, "/v1/hosts", name)
    return str(_checked(response)["id"])


def _find(http: httpx.Client, path: str, name: str) -> str:
    """Return the id of the object of a name; waits for an inventory that is being built."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        response = http.get(path, params={"name": name})
        found = response.json().get("items", []) if response.is_success else []
        if found:
            return str(found[0]["id"])
        if time.monotonic() > deadline:
            message = f"there is no {name} under {path}: {response.text[:300]}"
            raise EnrolmentError(message)
        time.sleep(0.2)


def _checked(response: httpx.Response) -> dict[str, Any]:
    if not response.is_success:
        message = f"{response.request.method} {response.request.url.path}: {response.text[:500]}"
        raise EnrolmentError(message)
    answer: dict[str, Any] = response.json()
    return answer
