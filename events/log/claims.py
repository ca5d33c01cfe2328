"""The rules of claims, without a database: what one command's claims need and what they leave.

A command's claims are taken in order, each seeing what the earlier ones of the same command did: so
a command may give a name back and take it again, for one holder or for another. What is left over
after that is a plan of two parts, which the log carries out on its table under its lock:

- *needs*, each a condition on what holders that this command has not touched have of a key;
- *effects*, the net change for each (key, holder): a row put in or replaced, or a row taken out.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

import msgspec

from events.claims import Claim, Mode


class Kind(enum.StrEnum):
    """What a need asks of the rows of its key, the excepted holders' apart."""

    FREE = "free"  # there is none
    OPEN = "open"  # none is exclusive
    ROOM = "room"  # their amounts and `amount` together are within `limit`
    NEVER = "never"  # it cannot be met: the command's own claims contradict each other


class Need(msgspec.Struct, frozen=True, gc=False):
    """One condition of a command.

    `excepted` are the holders whose rows do not count, the claim's own holder first. `amount` is
    what this command itself leaves on the key. A need that is NEVER met carries who holds it, and
    in which mode, in `excepted[0]` and `mode`.
    """

    key: str
    kind: Kind
    excepted: tuple[str, ...]
    amount: int = 0
    limit: int = 0
    mode: Mode = Mode.EXCLUSIVE


class Holding(msgspec.Struct, frozen=True, gc=False):
    """How a holder has a key: EXCLUSIVE, SHARED, or AMOUNT with an amount."""

    mode: Mode
    amount: int = 0


class Effect(msgspec.Struct, frozen=True, gc=False):
    """What a (key, holder) is after the command: a holding, or nothing (None)."""

    key: str
    holder: str
    holding: Holding | None


class Plan(msgspec.Struct, frozen=True, gc=False):
    """All that a command's claims come to."""

    needs: tuple[Need, ...]
    effects: tuple[Effect, ...]


NOTHING = Plan((), ())

Local = dict[str, dict[str, Holding | None]]
"""What a command has done so far: key to holder to what that holder now has of it."""


def plan(claims: Iterable[Claim]) -> Plan:
    """Return the needs and effects of a command's claims, given in their order."""
    local: Local = {}
    needs: list[Need] = []
    for claim in claims:
        if claim.amount < 0 or claim.limit < 0:
            raise ValueError(f"the claim on {claim.key} has a negative amount or limit")
        holders = local.setdefault(claim.key, {})
        if claim.mode is not Mode.RELEASE:
            needs.extend(_needs(claim, holders))
        if claim.mode is Mode.RELEASE:
            holders[claim.holder] = None
        elif claim.mode is not Mode.CHECK:
            taken = claim.amount if claim.mode is Mode.AMOUNT else 0
            holders[claim.holder] = Holding(claim.mode, taken)
    if not local:
        return NOTHING
    effects = tuple(
        Effect(key, holder, holding)
        for key, holders in local.items()
        for holder, holding in holders.items()
    )
    return Plan(tuple(dict.fromkeys(needs)), effects)


def _needs(claim: Claim, holders: Mapping[str, Holding | None]) -> Iterable[Need]:
    """Yield what a claim that is no release asks, `holders` being what the command did before."""
    alone = claim.mode is Mode.EXCLUSIVE
    for holder, held in holders.items():
        if held is None or holder == claim.holder:
            continue
        if alone or held.mode is Mode.EXCLUSIVE:
            yield Need(claim.key, Kind.NEVER, (holder,), mode=held.mode)
            return
    excepted = (claim.holder, *(holder for holder in holders if holder != claim.holder))
    yield Need(claim.key, Kind.FREE if alone else Kind.OPEN, excepted)
    if claim.mode is Mode.AMOUNT:
        beside = sum(
            held.amount
            for holder, held in holders.items()
            if held is not None and holder != claim.holder
        )
        total = beside + claim.amount
        yield Need(claim.key, Kind.ROOM, excepted, amount=total, limit=claim.limit)


class Obstacle(msgspec.Struct, frozen=True):
    """Why a need is not met: who has the key, and how."""

    key: str
    holder: str
    mode: Mode


class ClaimTable:
    """The table of claims in memory; `events.log` keeps the same in PostgreSQL."""

    def __init__(self) -> None:
        self._holders: dict[str, dict[str, Holding]] = {}

    def obstacle(self, needs: Iterable[Need]) -> Obstacle | None:
        """Return what stands against the first need that is not met; None if all are."""
        for need in needs:
            found = self._against(need)
            if found is not None:
                return found
        return None

    def apply(self, effects: Iterable[Effect]) -> None:
        """Carry out the effects of a command whose needs are met."""
        for effect in effects:
            if effect.holding is not None:
                self._holders.setdefault(effect.key, {})[effect.holder] = effect.holding
                continue
            holders = self._holders.get(effect.key)
            if holders is not None:
                holders.pop(effect.holder, None)
                if not holders:
                    del self._holders[effect.key]

    def rows(self) -> dict[tuple[str, str], Holding]:
        """Return the whole table: (key, holder) to holding."""
        return {
            (key, holder): holding
            for key, holders in self._holders.items()
            for holder, holding in holders.items()
        }

    def _against(self, need: Need) -> Obstacle | None:
        if need.kind is Kind.NEVER:
            return Obstacle(need.key, need.excepted[0], need.mode)
        others = {
            holder: held
            for holder, held in self._holders.get(need.key, {}).items()
            if holder not in need.excepted
        }
        if need.kind is Kind.ROOM:
            if need.amount + sum(held.amount for held in others.values()) <= need.limit:
                return None
            # Whoever has most is named first; the claim's own holder if nobody else has any.
            largest = max(others, key=lambda holder: (others[holder].amount, holder), default="")
            return Obstacle(need.key, largest or need.excepted[0], Mode.AMOUNT)
        for holder, held in sorted(others.items()):
            if need.kind is Kind.FREE or held.mode is Mode.EXCLUSIVE:
                return Obstacle(need.key, holder, held.mode)
        return None
