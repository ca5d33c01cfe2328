"""The table of claims as it follows from the events alone."""

from __future__ import annotations

from events.claims import Claim
from events.codec import Codec
from events.log.claims import ClaimTable, Holding, plan
from events.log.port import LogReader


async def folded_claims(log: LogReader, codec: Codec) -> dict[tuple[str, str], Holding]:
    """Return (key, holder) to holding, folded over every event of a log."""
    table = ClaimTable()
    position = 0
    while stored := await log.read(position):
        for one in stored:
            claims: tuple[Claim, ...] = codec.decode(one).event.claims(one.stream)
            table.apply(plan(claims).effects)
        position = stored[-1].position
    return table.rows()
