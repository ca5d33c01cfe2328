"""Choose how a host's power is managed."""

from __future__ import annotations

from typing import Annotated

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound
from commands.state import lookup
from events.types.host_power import HostPowerConfigured, ProxyScope

Scopes = Annotated[
    tuple[ProxyScope, ...],
    msgspec.Meta(
        min_length=1,
        max_length=2,
        description="Where the proxies are looked for that talk to its fence agents, the first"
        " choice first: cluster, data_center.",
    ),
]


@command(
    "host.configure_power",
    method="PATCH",
    path="/v1/hosts/{id}/power",
    permission="EDIT_HOST_CONFIGURATION",
    verb="host power configure",
    refusals=(NotFound, InvalidField),
)
class ConfigurePower(Command, frozen=True, kw_only=True):
    """Choose how a host's power is managed.

    Enabled, and with fence agents, the host is fenced when it does not answer: turned off, which is
    verified, so that its VMs can start elsewhere, and turned on again. With kdump detection the
    fencing waits while the host says (fence_kdump) that it writes its kernel's dump. What is not
    given stays as it is.
    """

    id: Id
    enabled: bool | None = None
    kdump_detection: bool | None = None
    proxies: Scopes | None = None

    def decide(self, world: World, context: Context) -> Decision:
        """Set it; no event where it is so already."""
        del context
        state = lookup.host(world, self.id)
        power = state.power
        proxies = power.proxies if self.proxies is None else self.proxies
        if len(set(proxies)) != len(proxies):
            raise InvalidField(
                "A place for proxies is named twice.", remedy="Name each once.", field="proxies"
            )
        wanted = HostPowerConfigured(
            name=state.name,
            enabled=power.enabled if self.enabled is None else self.enabled,
            kdump_detection=(
                power.kdump_detection if self.kdump_detection is None else self.kdump_detection
            ),
            proxies=proxies,
        )
        before = (power.enabled, power.kdump_detection, power.proxies)
        if before == (wanted.enabled, wanted.kdump_detection, wanted.proxies):
            return Decision.of(self.id)
        return Decision.of(self.id, *on(f"host/{self.id}", wanted))
