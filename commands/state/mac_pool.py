"""The state of a MAC pool, and which address a new NIC gets of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from commands.kernel.command import Context, on
from commands.kernel.fold import Fold, World
from commands.kernel.refusal import WrongState
from commands.state import lookup
from events.envelope import NewEvent, Recorded
from events.types import mac_pool as e
from events.types.base import Event
from events.types.mac_pool import DEFAULT_POOL, DEFAULT_RANGES, MacRange, PoolLevel, size_of
from events.types.vm import VmCreated

LEFT_MIN = 10
"""With fewer addresses left, an alert says so: oVirt's RemainingMacsInPoolWarningThreshold."""


class MacPoolExhausted(WrongState):
    """The MAC pool has no address left."""


class MacPoolState(msgspec.Struct, frozen=True, kw_only=True):
    """A MAC pool, as decisions see it. `level` is what was told of it last."""

    id: str
    name: str
    description: str = ""
    ranges: tuple[MacRange, ...]
    allow_duplicates: bool = False
    level: PoolLevel = PoolLevel.ENOUGH
    configuration_version: int = 1
    removed: bool = False

    @property
    def size(self) -> int:
        """How many addresses there are in it."""
        return size_of(self.ranges)


_DEFAULT = MacPoolState(id=DEFAULT_POOL, name="Default", ranges=DEFAULT_RANGES)
"""The default pool of an installation that was set up before there were pools."""


def evolve(state: MacPoolState | None, recorded: Recorded) -> MacPoolState | None:
    """Fold one event of a pool's stream."""
    event = recorded.event
    if isinstance(event, e.MacPoolCreated):
        return MacPoolState(
            id=recorded.object_id,
            name=event.name,
            description=event.description,
            ranges=event.ranges,
            allow_duplicates=event.allow_duplicates,
        )
    if state is None:
        return None
    match event:
        case e.MacPoolUpdated():
            return msgspec.structs.replace(
                state,
                name=event.name,
                description=event.description,
                ranges=event.ranges,
                allow_duplicates=event.allow_duplicates,
                configuration_version=state.configuration_version + 1,
            )
        case e.MacPoolAlmostEmpty():
            return msgspec.structs.replace(state, level=PoolLevel.ALMOST_EMPTY)
        case e.MacPoolEmpty():
            return msgspec.structs.replace(state, level=PoolLevel.EMPTY)
        case e.MacPoolRefilled():
            return msgspec.structs.replace(state, level=PoolLevel.ENOUGH)
        case e.MacPoolRemoved():
            return msgspec.structs.replace(state, removed=True)
        case _:
            return state


MAC_POOL = Fold("mac_pool", MacPoolState, evolve)


def find(world: World, object_id: str) -> MacPoolState:
    """Return the pool; raises NotFound."""
    state = world.get(MAC_POOL, object_id)
    if state is None or state.removed:
        raise lookup.missing("MAC pool", object_id)
    return state


def chosen(world: World, pool: str | None) -> str | None:
    """Return the pool that a cluster is to use, None for the default one; raises NotFound."""
    if pool is None or pool == DEFAULT_POOL:
        return None
    return find(world, pool).id


def pool_of(world: World, pool: str | None) -> MacPoolState:
    """Return the pool that a cluster uses, by its id; None for the default one."""
    state = world.get(MAC_POOL, pool or DEFAULT_POOL)
    return _DEFAULT if state is None or state.removed else state


def level_of(state: MacPoolState, left: int) -> tuple[Event, ...]:
    """Return the event that the pool has so many addresses left; none where that is no news."""
    level = PoolLevel.EMPTY if left <= 0 else PoolLevel.ALMOST_EMPTY
    if left >= LEFT_MIN:
        level = PoolLevel.ENOUGH
    if level is state.level or state is _DEFAULT:
        return ()
    match level:
        case PoolLevel.EMPTY:
            return (e.MacPoolEmpty(name=state.name),)
        case PoolLevel.ALMOST_EMPTY:
            return (e.MacPoolAlmostEmpty(name=state.name, left=left),)
        case PoolLevel.ENOUGH:
            return (e.MacPoolRefilled(name=state.name),)


def told_of(state: MacPoolState, created: VmCreated, context: Context) -> tuple[NewEvent, ...]:
    """Return what is told of a pool once a new VM's NICs have their addresses of it."""
    nics = created.configuration.nics
    if not nics:
        return ()
    left = left_in(state, context, [e.number(nic.mac) for nic in nics])
    return on(MAC_POOL.stream(state.id), *level_of(state, left))


def left_in(state: MacPoolState, context: Context, taken: Iterable[int] = ()) -> int:
    """Return how many addresses are left, `taken` being those that a decision takes."""
    bounds = [each.bounds for each in state.ranges]
    used = sum(context.macs.count(first, last) for first, last in bounds)
    used += sum(
        any(first <= one <= last for first, last in bounds) and one not in context.macs
        for one in set(taken)
    )
    return state.size - used


def free_addresses(state: MacPoolState, context: Context, given: Iterable[str]) -> Iterator[str]:
    """Yield addresses that no NIC has, as far as is known: the append settles it.

    Each search begins anywhere, so that engines which decide at the same time choose different
    ones. `given` are those that the admin gives in the same command. Raises MacPoolExhausted.
    """
    taken = {e.number(each) for each in given} | {e.number(each) for each in context.macs_refused}
    for random in context.randoms:
        found = _search(state, context, taken, random % state.size)
        if found is None:
            break
        taken.add(found)
        yield e.address(found)
    raise MacPoolExhausted(
        f"MAC pool {state.name} has no address left.",
        remedy="Give it another range ('mac-pool update'), give the cluster another pool"
        " ('cluster update'), or give the NIC an address.",
        mac_pool=state.id,
    )


def _search(state: MacPoolState, context: Context, taken: set[int], start: int) -> int | None:
    """Return the first free address from the one at `start` on, round the pool; None for none.

    It passes over no more addresses than are used.
    """
    stretches: list[tuple[int, int]] = []
    before: list[tuple[int, int]] = []
    for first, last in (each.bounds for each in state.ranges):
        size = last - first + 1
        if start >= size:
            before.append((first, last))
        elif start >= 0:
            stretches.append((first + start, last))
            before.append((first, first + start - 1))
        else:
            stretches.append((first, last))
        start -= size
    for first, last in (*stretches, *before):
        for one in range(first, last + 1):
            if one not in taken and one not in context.macs:
                return one
    return None
