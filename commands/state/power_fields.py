"""What verbs about power management share: field types, and refusals in the same words."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Annotated

import msgspec

from commands.kernel.fields import END
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, WrongState
from commands.state import lookup
from commands.state.host import HostState, HostStatus
from events.types.host_power import FenceAgent, FenceOption

AGENTS_MAX = 8
OPTIONS_MAX = 32

FenceType = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=40,
        pattern=r"^[a-z0-9][a-z0-9_\-]*" + END,
        description="The fence-agents program without 'fence_', such as ipmilan, redfish or"
        " apc_snmp. Each host shows under its capabilities which it has.",
    ),
]
Address = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=255,
        pattern=r"^[A-Za-z0-9.:_%/\-]+" + END,
        description="The host name or address of the device, as the proxies reach it.",
    ),
]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65_535, description="Its TCP or UDP port.")]
Username = Annotated[
    str,
    msgspec.Meta(
        max_length=255,
        pattern=r"^[^\x00-\x1f\x7f]*" + END,
        description="Whom to log in as there.",
    ),
]
OptionText = Annotated[
    str,
    msgspec.Meta(
        max_length=1_000,
        pattern=r"^[^\x00-\x1f\x7f]*" + END,
        description="Options of the program by its own names, such as 'lanplus=1,cipher=3' or"
        " 'plug=4'; one for each comma.",
    ),
]
Turn = Annotated[
    int,
    msgspec.Meta(
        ge=1,
        le=9,
        description="When its turn is: agents of a lower order are tried first. Those of one order"
        " are concurrent: each of them must be off for the host to be off.",
    ),
]
MAY_BE_OFF = frozenset(
    {
        HostStatus.MAINTENANCE,
        HostStatus.NON_RESPONSIVE,
        HostStatus.KDUMPING,
        HostStatus.DOWN,
        HostStatus.REBOOT,
    }
)
"""In these a host may be turned off by hand: nothing that is known to run is lost."""
_OPTION = re.compile(r"[A-Za-z0-9_\-]{1,64}\Z")
_RESERVED = frozenset(
    {"action", "ip", "ipaddr", "login", "nodename", "passwd", "password", "user", "username"}
)
_HARMFUL = ("debug", "verbose", "passw")
"""Options that begin so would write a password down, or hold one."""
_RUNNING = ("_script", "_path")
"""Options that end so would run a program of their own as root."""


def options_of(text: str) -> tuple[FenceOption, ...]:
    """Return the options that were typed; raises InvalidField."""
    options: dict[str, FenceOption] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        name = name.strip()
        lowered = name.lower()
        if not _OPTION.match(name) or name in options:
            raise InvalidField(
                f"{part[:80]!r} is no option, or is there twice.",
                remedy="Give options as name=value, separated by commas.",
                field="options",
            )
        if lowered in _RESERVED or lowered.startswith(_HARMFUL) or lowered.endswith(_RUNNING):
            raise InvalidField(
                f"The option {name} may not be given.",
                remedy="Address, user and password have fields of their own; what writes secrets"
                " down or runs other programs is not allowed.",
                field="options",
            )
        options[name] = FenceOption(name=name, value=value.strip() or "1")
    if len(options) > OPTIONS_MAX:
        raise InvalidField(
            f"There are {len(options)} options, more than {OPTIONS_MAX}.",
            remedy="Give fewer.",
            field="options",
        )
    return tuple(options.values())


def require_agent(state: HostState, name: str) -> FenceAgent:
    """Return a host's fence agent; raises InvalidField where it has none of that name."""
    agent = state.power.agent(name)
    if agent is None:
        there = ", ".join(each.name for each in state.power.agents) or "none"
        raise InvalidField(
            f"Host {state.name} has no fence agent {name}; it has: {there}.",
            remedy="Name one of these, or add it with 'host power add-agent'.",
            field="agent",
        )
    return agent


def require_power(
    world: World, host: str, allowed: Container[HostStatus] | None, doing: str
) -> HostState:
    """Return the host if its power can be managed, in a status that allows it."""
    state = lookup.host(world, host)
    if not state.power.enabled or not state.power.agents:
        why = "has no fence agent" if not state.power.agents else "is disabled"
        raise WrongState(
            f"Power management of host {state.name} {why}.",
            remedy="Add one with 'host power add-agent', and enable it with 'host power configure"
            " --enabled'.",
        )
    if allowed is not None and state.status not in allowed:
        raise WrongState(
            f"Host {state.name} is {state.status.replace('_', ' ')}: it cannot be {doing}.",
            remedy="Turn it on first: 'host power start'."
            if state.at_rest
            else "Put it into maintenance first; a host that does not answer needs none.",
        )
    return state
