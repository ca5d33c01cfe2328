"""The settings: one object, read once, from defaults, a TOML file and the environment.

`DIR/chronovisor.toml` holds what differs from the defaults; an environment variable wins over it:
`CHRONOVISOR_API__PORT=8800` sets `port` in the section `api`. Secrets are never settings: a setting
names the file that holds one.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

FILE_NAME = "chronovisor.toml"
PREFIX = "CHRONOVISOR_"
NOT_SETTINGS = frozenset(
    {
        "URL",
        "TOKEN_FILE",
        "CA_FILE",
        "OUTPUT",
        "CACHE",
        "TEST_PATIENCE",
        "TEST_RERUNS",
        "REQUIRE_ALL",
    }
)
"""Variables with our prefix that are the CLI's or the tests' own."""

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class SettingsError(Exception):
    """A setting is wrong; the text names it, where it comes from, and what is allowed."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the sections."""


class Api(Section, frozen=True, kw_only=True):
    """The HTTP API. `names` are further host names or addresses that its certificate is to have.

    `plain_http` serves without TLS, on loopback only.
    """

    host: str = "127.0.0.1"
    port: Port = 8800
    names: tuple[str, ...] = ()
    plain_http: bool = False


class Gateway(Section, frozen=True, kw_only=True):
    """The agents' side. Port 0 takes the API's port plus one (any free one if that is 0 too).

    `address` is what agents are told to connect to; empty: the first of `api.names`, or `host`.
    """

    host: str = "127.0.0.1"
    port: Port = 0
    address: str = ""


class Database(Section, frozen=True, kw_only=True):
    """PostgreSQL. Without `dsn_file` the embedded one is used, under DIR."""

    dsn_file: Path | None = None


class Kafka(Section, frozen=True, kw_only=True):
    """Kafka. Without `bootstrap` (host:port, comma separated) the direct stream is used."""

    bootstrap: str | None = None
    projector: bool = False


class Hosts(Section, frozen=True, kw_only=True):
    """How long hosts may be silent, and what agents keep to."""

    silent_timeout_s: Seconds = 60.0
    grace_s: Seconds = 300.0
    failing_s: Seconds = 1_800.0
    telemetry_interval_s: Seconds = 15.0
    compare_interval_s: Seconds = 60.0


class Policies(Section, frozen=True, kw_only=True):
    """How long operations wait."""

    launch_timeout_s: Seconds = 60.0
    retry_s: Seconds = 30.0


class Restarts(Section, frozen=True, kw_only=True):
    """How VMs are started by themselves: those that are highly available, or start with a host.

    The first restart is at once; the next ones, up to the `short_tries`-th, follow each failure by
    `short_interval_s`, later ones by `long_interval_s`, until a run was up for `well_s`.
    """

    short_interval_s: Seconds = 30.0
    short_tries: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 10
    long_interval_s: Seconds = 1_800.0
    well_s: Seconds = 600.0
    starts_per_host: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 4
    shutting_down_s: Seconds = 600.0


class Fencing(Section, frozen=True, kw_only=True):
    """How hosts that are silent are turned off, so that their VMs can start elsewhere.

    `protected_hosts` are the names of those that never are: the engine's or its database's.
    `kdump_port` 0 does not listen for kernel dumps; `kdump_host` empty: at `gateway.host`.
    """

    settle_s: Seconds = 20.0
    soft_timeout_s: Seconds = 60.0
    kdump_host: str = ""
    kdump_port: Port = 7410
    kdump_wait_s: Seconds = 30.0
    kdump_ended_after_s: Seconds = 90.0
    kdump_timeout_s: Seconds = 3_600.0
    status_timeout_s: Seconds = 40.0
    off_timeout_s: Seconds = 120.0
    on_timeout_s: Seconds = 120.0
    confirm_fresh_s: Seconds = 15.0
    retry_s: Seconds = 180.0
    quiet_s: Seconds = 180.0
    listen_s: Seconds = 30.0
    boot_timeout_s: Seconds = 600.0
    at_once_max: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 20
    lost_percent_max: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50
    protected_hosts: tuple[str, ...] = ()


class Evacuation(Section, frozen=True, kw_only=True):
    """How VMs leave a host that goes into maintenance, or that is not fit for its cluster."""

    attempts_max: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    retry_s: Seconds = 30.0
    shutdown_timeout_s: Seconds = 300.0


class Smtp(Section, frozen=True, kw_only=True):
    """Mail. Without `server` no mail is sent. The password lies in a file."""

    server: str | None = None
    port: Port | None = None
    encryption: Annotated[str, msgspec.Meta(pattern="^(none|ssl|starttls)$")] = "starttls"
    user: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    sender: str = "chronovisor@localhost"
    reply_to: str | None = None


class Snmp(Section, frozen=True, kw_only=True):
    """SNMP v2c traps to `managers` (host or host:port). The community lies in a file.

    `inform` asks each manager to acknowledge: what one that is down did not get is sent again.
    """

    managers: tuple[str, ...] = ()
    community_file: Path | None = None
    inform: bool = False


class Notifier(Section, frozen=True, kw_only=True):
    """Who is told what: `filter` in oVirt's grammar, `exclude:*` for nobody."""

    filter: str = "exclude:*"
    start: Annotated[str, msgspec.Meta(pattern="^(head|beginning)$")] = "head"
    smtp: Smtp = Smtp()
    snmp: Snmp = Snmp()


class Settings(Section, frozen=True, kw_only=True):
    """All settings.

    `time_scale` multiplies every time-out and interval that runs between our own parts: tests set
    it low to see in seconds what takes minutes.
    """

    time_scale: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1.0
    api: Api = Api()
    gateway: Gateway = Gateway()
    database: Database = Database()
    kafka: Kafka = Kafka()
    hosts: Hosts = Hosts()
    policies: Policies = Policies()
    restarts: Restarts = Restarts()
    fencing: Fencing = Fencing()
    evacuation: Evacuation = Evacuation()
    notifier: Notifier = Notifier()


def load(folder: Path, environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of a folder; raises SettingsError."""
    file = folder / FILE_NAME
    fields: dict[str, Any] = {}
    try:
        fields = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        message = f"{file} cannot be read: {error}"
        raise SettingsError(message) from error
    names = _from_environment(fields, os.environ if environment is None else environment)
    try:
        return msgspec.convert(fields, Settings, strict=False, dec_hook=_custom)
    except msgspec.ValidationError as error:
        sources = f"{file}" + (f" or the environment ({', '.join(names)})" if names else "")
        message = f"A setting in {sources} is wrong: {error}"
        raise SettingsError(message) from error


def _custom(kind: type, given: object) -> object:
    """Return a value of a type that msgspec does not know: a path."""
    if kind is Path and isinstance(given, str):
        return Path(given)
    message = f"Expected a {kind.__name__.lower()}, got {given!r}"
    raise ValueError(message)


def _from_environment(fields: dict[str, Any], environment: Mapping[str, str]) -> list[str]:
    """Put the environment's settings over the file's; return the variables used."""
    used = []
    for name, text in sorted(environment.items()):
        key = name.removeprefix(PREFIX)
        if key == name or key in NOT_SETTINGS:
            continue
        *sections, field = key.lower().split("__")
        place = fields
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                message = f"{name} names a section that is no section: {section}"
                raise SettingsError(message)
        place[field] = _value(sections, field, text)
        used.append(name)
    return used


def _value(sections: list[str], field: str, text: str) -> object:
    """Lists are given comma separated; everything else as it is."""
    kind: Any = Settings
    for section in sections:
        known = {f.name: f.type for f in msgspec.structs.fields(kind)}
        kind = known.get(section)
        if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            return text
    types = {f.name: f.type for f in msgspec.structs.fields(kind)}
    if str(types.get(field, "")).startswith("tuple"):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text
