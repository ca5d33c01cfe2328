"""The power of other machines: the programs of the fence-agents, run one at a time for a device.

What a program needs to know, its password among it, goes in by its standard input: arguments show
in the list of processes. It sees nothing of our environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from events.types.host_power import FenceAction, FenceAgent, PowerState

FOLDERS = (Path("/usr/sbin"), Path("/usr/bin"), Path("/usr/local/sbin"))
PREFIX = "fence_"
OUTPUT_BYTES_MAX = 64 * 1024
DETAIL_CHARACTERS_MAX = 300
STATUS_ON, STATUS_OFF = 0, 2
"""Exit codes of the action `status`."""
KILL_WAIT_S = 5.0
_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
    "PYTHONWARNINGS": "ignore",
}
NO_POWER = frozenset(
    {
        *("brocade", "cisco_mds", "heuristics_ping", "ifmib", "mpath", "sanbox2", "sanlock"),
        *("scsi", "sbd", "dummy", "kdump", "ack_manual", "legacy", "virtd", "tripplite_snmp_dummy"),
    }
)
"""Programs that cut a machine off from network or storage, or only believe it to be off."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one run of a program: whether it succeeded, and its words, for people.

    `state` is there for the action status, and unknown where the program failed.
    """

    succeeded: bool
    state: PowerState = PowerState.UNKNOWN
    detail: str = ""


class Power(Protocol):
    """How to switch machines on and off, and to ask whether they are on."""

    def installed(self) -> tuple[str, ...]:
        """Return the types of fence agents that can be used here, sorted."""
        ...

    async def run(self, agent: FenceAgent, action: FenceAction, timeout_s: float) -> Told:
        """Do one thing at one device; never raises for what the device does or does not."""
        ...

    async def answers(self, address: str, timeout_s: float) -> bool:
        """Tell whether a machine still answers at an address (host:port)."""
        ...


class FencePrograms:
    """The programs that are installed on this machine."""

    def __init__(self, folders: Sequence[Path] = FOLDERS) -> None:
        self._folders = tuple(folders)

    def installed(self) -> tuple[str, ...]:
        """See `Power.installed`."""
        found: set[str] = set()
        for folder in self._folders:
            for path in folder.glob(f"{PREFIX}*"):
                name = path.name.removeprefix(PREFIX)
                if name not in NO_POWER and os.access(path, os.X_OK) and path.is_file():
                    found.add(name)
        return tuple(sorted(found))

    async def run(self, agent: FenceAgent, action: FenceAction, timeout_s: float) -> Told:
        """See `Power.run`."""
        program = self._program(agent.type)
        if program is None:
            return Told(succeeded=False, detail=f"fence_{agent.type} is not installed")
        try:
            process = await asyncio.create_subprocess_exec(
                str(program),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            return Told(succeeded=False, detail=f"fence_{agent.type} cannot be run: {error}")
        try:
            async with asyncio.timeout(timeout_s):
                output = await _talk(process, program_input(agent, action))
        except TimeoutError:
            return Told(succeeded=False, detail=f"no answer within {timeout_s:.0f} s")
        finally:
            await _end(process)
        return _told(action, process.returncode or 0, _clean(output, agent))

    async def answers(self, address: str, timeout_s: float) -> bool:
        """See `Power.answers`. A refusal is an answer, too: something runs that refuses."""
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(timeout_s):
                _reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except ConnectionRefusedError:
            return True
        except (OSError, TimeoutError, ValueError):
            return False
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(timeout_s):
                await writer.wait_closed()
        return True

    def _program(self, kind: str) -> Path | None:
        if kind in NO_POWER or "/" in kind:
            return None
        places = (folder / f"{PREFIX}{kind}" for folder in self._folders)
        return next((path for path in places if os.access(path, os.X_OK)), None)


def program_input(agent: FenceAgent, action: FenceAction) -> bytes:
    """Return what a program is told on its standard input: `name=value`, one in a line."""
    given = [("action", action.value), ("ip", agent.address)]
    if agent.port is not None:
        given.append(("ipport", str(agent.port)))
    if agent.username:
        given.append(("username", agent.username))
    if agent.password:
        given.append(("password", agent.password))
    given += [(option.name, option.value) for option in agent.options]
    for name, value in given:
        if "\n" in name + value:
            raise ValueError("a line end in an option of a fence agent")
    return "".join(f"{name}={value}\n" for name, value in given).encode()


async def _talk(process: asyncio.subprocess.Process, text: bytes) -> str:
    assert process.stdin is not None  # noqa: S101 - it was made so
    assert process.stdout is not None  # noqa: S101
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(text)
        await process.stdin.drain()
    process.stdin.close()
    output = bytearray()
    while chunk := await process.stdout.read(4096):
        if len(output) < OUTPUT_BYTES_MAX:
            output += chunk
    await process.wait()
    return output.decode(errors="replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """See that nothing of a program is left, whatever it began itself."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILL_WAIT_S):
            await process.wait()


def _told(action: FenceAction, code: int, detail: str) -> Told:
    if action is not FenceAction.STATUS:
        return Told(succeeded=code == 0, detail=detail)
    states = {STATUS_ON: PowerState.ON, STATUS_OFF: PowerState.OFF}
    state = states.get(code, PowerState.UNKNOWN)
    return Told(succeeded=state is not PowerState.UNKNOWN, state=state, detail=detail)


def _clean(output: str, agent: FenceAgent) -> str:
    """Return the last words of a program, in one line, without the password."""
    if agent.password:
        output = output.replace(agent.password, "***")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " ".join(lines)[-DETAIL_CHARACTERS_MAX:]
