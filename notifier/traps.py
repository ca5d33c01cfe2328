"""SNMP v2c notifications with the objects of OVIRT-MIB (docs/mib/OVIRT-MIB.txt).

A trap is a datagram that nobody acknowledges, so "told" means sent. An inform is acknowledged: it
is sent again until the manager has it. The object identifiers carry no instance suffix, as in
oVirt's own traps.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from pysnmp.error import PySnmpError
from pysnmp.hlapi.v3arch.asyncio import (
    CommunityData,
    ContextData,
    NotificationType,
    ObjectIdentity,
    SnmpEngine,
    Udp6TransportTarget,
    UdpTransportTarget,
    send_notification,
)
from pysnmp.proto.rfc1902 import Integer32, OctetString, TimeTicks

from events.types.base import Severity
from notifier.channel import DeliveryError
from notifier.notification import Kind, Notification

TRANSPORT = "snmp"
PORT = 162
SYS_UP_TIME = "1.3.6.1.2.1.1.3.0"
BASE = "1.3.6.1.4.1.2312.13.1.1"
AUDIT_NOTIFICATION = f"{BASE}.0.1"
AUDIT_OBJECTS = f"{BASE}.2.1"
SEVERITIES = {Severity.NORMAL: 0, Severity.WARNING: 1, Severity.ERROR: 2, Severity.ALERT: 10}
STATUSES = {Kind.RESOLVE: 0, Kind.ALERT: 1}
TICKS_PER_S = 100
TICKS = 2**32
TEXT_BYTES_MAX = 1_000
INFORM_TIMEOUT_S = 2.0
INFORM_RETRIES = 2
_MANAGER = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+))(?::(\d{1,5}))?")


class TrapSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A profile: the managers (host, host:port, [IPv6]:port) that get a copy each.

    The community lies in a file; without one it is `public`. `inform` asks for acknowledgement.
    """

    managers: tuple[str, ...]
    community_file: Path | None = None
    inform: bool = False
    inform_timeout_s: float = INFORM_TIMEOUT_S


class TrapChannel:
    """Sends notifications as traps or informs. Raises ValueError for settings that cannot work."""

    def __init__(self, profiles: dict[str, TrapSettings]) -> None:
        self._profiles = profiles
        self._communities: dict[str, str] = {}
        for name, profile in profiles.items():
            if not profile.managers:
                raise ValueError(f"the SNMP profile {name!r} names no manager")
            for manager in profile.managers:
                parse_manager(manager)
            self._communities[name] = _community(profile.community_file)
        self._engine: Any = None
        self._started = time.monotonic()

    @property
    def transport(self) -> str:
        """The transport's name in filters."""
        return TRANSPORT

    def addresses(self, name: str) -> tuple[str, ...]:
        """Return `profile@manager` for each manager of a profile; ValueError if there is none."""
        if name not in self._profiles:
            known = ", ".join(repr(each) for each in sorted(self._profiles))
            raise ValueError(f"there is no SNMP profile {name!r}, only {known}")
        return tuple(f"{name}@{manager}" for manager in self._profiles[name].managers)

    @property
    def at_once_max(self) -> int:
        """One: what fails is then known to be that one."""
        return 1

    async def deliver(self, address: str, notifications: Sequence[Notification]) -> None:
        """Send one trap, or one inform and wait for its acknowledgement."""
        (notification,) = notifications
        name, _, manager = address.partition("@")
        profile = self._profiles.get(name)
        if profile is None:
            raise DeliveryError(f"there is no SNMP profile {name!r} any more")
        if self._engine is None:
            self._engine = SnmpEngine()
        host, port = parse_manager(manager)
        kind = UdpTransportTarget if ":" not in host else Udp6TransportTarget
        ticks = int((time.monotonic() - self._started) * TICKS_PER_S) % TICKS
        content = NotificationType(ObjectIdentity(AUDIT_NOTIFICATION)).add_varbinds(
            (SYS_UP_TIME, TimeTicks(ticks)), *variables(notification)
        )
        try:
            target = await kind.create(
                (host, port), timeout=profile.inform_timeout_s, retries=INFORM_RETRIES
            )
            indication, status, _, _ = await send_notification(
                self._engine,
                CommunityData(name or "default", self._communities[name], mpModel=1),  # noqa: S508
                target,
                ContextData(),
                "inform" if profile.inform else "trap",
                content,
                lookupMib=False,
            )
        except (PySnmpError, OSError) as error:
            raise DeliveryError(f"{manager}: {error}") from error
        if indication or status:
            raise DeliveryError(f"{manager}: {indication or status}")

    async def close(self) -> None:
        """Close the sockets."""
        if self._engine is not None:
            self._engine.close_dispatcher()
            self._engine = None


def parse_manager(text: str) -> tuple[str, int]:
    """Return host and port of a manager; ValueError if it is written wrongly."""
    match = _MANAGER.fullmatch(text)
    port = int(match[3] or PORT) if match is not None else 0
    if match is None or not 0 < port < 2**16:
        raise ValueError(f"an SNMP manager is host, host:port or [IPv6]:port, not {text!r}")
    return match[1] or match[2], port


def _community(file: Path | None) -> str:
    if file is None:
        return "public"
    try:
        return file.read_text().strip()
    except OSError as error:
        raise ValueError(f"the SNMP community's file {file}: {error.strerror}") from error


def _text(value: str) -> OctetString:
    """Return text as octets, cut between characters so that a datagram holds all of it."""
    return OctetString(value.encode()[:TEXT_BYTES_MAX].decode(errors="ignore").encode())


def variables(notification: Notification) -> list[tuple[str, Any]]:
    """Return the variables of OVIRT-MIB: the first seven always, names and ids where there are."""
    always: list[tuple[int, Any]] = [
        (1, _text(str(notification.position))),
        (2, _text(notification.name)),
        (3, Integer32(notification.code)),
        (4, Integer32(SEVERITIES[notification.severity])),
        (5, _text(notification.message)),
        (6, Integer32(STATUSES[notification.kind])),
        (7, _text(notification.time.strftime("%Y-%m-%dT%H:%MZ"))),
    ]
    sometimes: Iterable[tuple[int, str]] = (
        (100, notification.actor),
        (102, notification.vm_name),
        (103, notification.vm_id),
        (104, notification.host_name),
        (105, notification.host_id),
        (108, notification.data_center_name),
        (109, notification.data_center_id),
    )
    found = always + [(number, _text(value)) for number, value in sometimes if value]
    return [(f"{AUDIT_OBJECTS}.{number}", value) for number, value in found]
