"""What a guest's agent answers, made readable; the guest is not trusted."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable

import msgspec

from hostagent.driver import DriverError, Guest

ADDRESSES_MAX = 64
TEXT_LENGTH_MAX = 255


class _Address(msgspec.Struct, frozen=True, rename="kebab"):
    ip_address: str = ""


class _Interface(msgspec.Struct, frozen=True, rename="kebab"):
    ip_addresses: tuple[_Address, ...] = ()


class _Interfaces(msgspec.Struct, frozen=True):
    answer: tuple[_Interface, ...] = msgspec.field(default=(), name="return")


class _HostName(msgspec.Struct, frozen=True, rename="kebab"):
    host_name: str = ""


class _HostNameAnswer(msgspec.Struct, frozen=True):
    answer: _HostName = msgspec.field(default=_HostName(), name="return")


class _System(msgspec.Struct, frozen=True, rename="kebab"):
    pretty_name: str = ""
    name: str = ""
    version: str = ""
    kernel_release: str = ""


class _SystemAnswer(msgspec.Struct, frozen=True):
    answer: _System = msgspec.field(default=_System(), name="return")


def read_guest(ask: Callable[[str, int], str], limit_s: int) -> Guest:
    """Ask the guest's agent what it knows, all together within `limit_s` whole seconds.

    Raises DriverError if it does not answer at all; what an old agent does not know stays empty.
    `ask` is given a command and a limit, and blocks.
    """
    end_s = time.monotonic() + limit_s
    interfaces = ask("guest-network-get-interfaces", limit_s)

    def maybe(command: str) -> str | None:
        left_s = int(end_s - time.monotonic())
        if left_s < 1:
            return None
        try:
            return ask(command, left_s)
        except DriverError:
            return None

    return guest(interfaces, maybe("guest-get-host-name"), maybe("guest-get-osinfo"))


def guest(interfaces: str, host_name: str | None, system: str | None) -> Guest:
    """Return what three answers say; the last two may be missing or unreadable (old agents)."""
    return Guest(
        hostname=_host_name(host_name),
        addresses=_addresses(interfaces),
        operating_system=_system(system),
    )


def _addresses(answer: str) -> tuple[str, ...]:
    try:
        interfaces = msgspec.json.decode(answer, type=_Interfaces).answer
    except msgspec.DecodeError:
        return ()
    found: dict[str, None] = {}
    for each in (address for interface in interfaces for address in interface.ip_addresses):
        try:
            address = ipaddress.ip_address(each.ip_address)
        except ValueError:
            continue
        if not (address.is_loopback or address.is_link_local):
            found[str(address)] = None
    return tuple(found)[:ADDRESSES_MAX]


def _host_name(answer: str | None) -> str:
    try:
        name = msgspec.json.decode(answer or "", type=_HostNameAnswer).answer.host_name
    except msgspec.DecodeError:
        return ""
    return _plain(name)


def _system(answer: str | None) -> str:
    try:
        system = msgspec.json.decode(answer or "", type=_SystemAnswer).answer
    except msgspec.DecodeError:
        return ""
    named = system.pretty_name or f"{system.name} {system.version}".strip()
    # An agent that finds no os-release still knows its kernel.
    return _plain(named or (f"kernel {system.kernel_release}" if system.kernel_release else ""))


def _plain(text: str) -> str:
    """Return the text as one short line that is safe to show."""
    return "".join(letter for letter in text if letter.isprintable())[:TEXT_LENGTH_MAX]
