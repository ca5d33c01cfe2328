"""What balancing answers with."""

from __future__ import annotations

import msgspec

from events.types.balancing import HostFigures, PlannedMove


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Moves that make things better, and the load of the hosts that they touch."""

    moves: tuple[PlannedMove, ...] = ()
    hosts: tuple[HostFigures, ...] = ()
