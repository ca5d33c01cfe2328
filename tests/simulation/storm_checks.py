"""What must hold of storms: bounds, order, proofs, words, and how many speak at once."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Iterator

from commands.policies.facts import STARTING
from commands.policies.host_fence import KIND as FENCING
from commands.state.vm import VM, VmState
from events.envelope import Recorded
from hostagent.timings import Timings
from projections.views.tables import VMS
from projections.views.vm_document import VmDocument
from tests.simulation.engine import TIMEOUTS
from tests.simulation.verdict import operations
from tests.simulation.world import World

RESTARTS_MAX = TIMEOUTS.restarts.starts_per_host
DEVIATIONS = 5.0
"""So many standard deviations above its mean the most hellos of a second may lie."""


def _states(recorded: list[Recorded]) -> Iterator[tuple[Recorded, dict[str, VmState]]]:
    """Yield each event of a VM with all VMs as they are after it."""
    states: dict[str, VmState] = {}
    for one in recorded:
        if one.kind == "vm":
            after = VM.evolve(states.get(one.object_id), one)
            if after is not None:
                states[one.object_id] = after
            yield one, states


def check_bounds(world: World, recorded: list[Recorded], head: int) -> None:
    """No host starts more VMs at a time than the rules allow."""
    starting: dict[str, set[str]] = collections.defaultdict(set)
    where: dict[str, str] = {}
    for one, states in _states(recorded):
        vm = states[one.object_id]
        starting[where.pop(vm.id, "")].discard(vm.id)
        if vm.run is not None and vm.status in STARTING:
            where[vm.id] = vm.run.host
            starting[vm.run.host].add(vm.id)
            if one.position > head and len(starting[vm.run.host]) > RESTARTS_MAX:
                name = world.hosts[vm.run.host].name
                world.break_promise(f"{name} starts {len(starting[vm.run.host])} VMs at a time")


def check_order(world: World, recorded: list[Recorded], head: int) -> None:
    """Nobody is placed while one that is more urgent, and began to wait before, still waits.

    All VMs are alike, and any host will do.
    """
    begun: dict[str, int] = {}
    late = 0
    for one, states in _states(recorded):
        vm = states[one.object_id]
        if one.name == "vm.restart_decided":
            begun[vm.id] = one.position
        elif one.name == "vm.start_abandoned":
            begun.pop(vm.id, None)
        elif one.name == "vm.placed" and (since := begun.pop(vm.id, 0)) and one.position > head:
            late += any(
                position < since and states[other].availability.priority > vm.availability.priority
                for other, position in begun.items()
            )
    if late:
        world.break_promise(f"{late} VMs were placed before others that were more urgent")


def check_words(world: World, recorded: list[Recorded], expected: int) -> None:
    """Each VM that could not be placed has an explanation."""
    waiting = [
        operation
        for operation in operations(recorded).values()
        if operation.open and operation.kind == "vm.restart"
    ]
    if len(waiting) != expected:
        world.break_promise(f"{len(waiting)} restarts wait, not {expected}")
    for operation in waiting:
        if not operation.attention or "MiB of memory free" not in operation.attention:
            world.break_promise(f"{operation.name} waits without the reason: {operation.attention}")


def check_documents(world: World) -> None:
    """Each VM that is not up says in the inventory why not, and what happens next."""
    for row in world.projection.store.rows["vms"].values():
        vm: VmDocument = VMS.decoder.decode(row[-1])
        if str(vm.status) != "up" and not (vm.status_reason and vm.next):
            world.break_promise(f"{vm.name} is {vm.status} without a word: {vm}")


def check_proofs(world: World, recorded: list[Recorded], head: int, hosts: Iterable[str]) -> None:
    """These hosts, and no others, are proved off, each once, before their VMs are placed."""
    proved: list[str] = []
    runs: dict[str, str] = {}
    for one, states in _states_and_hosts(recorded):
        if one.name == "host.fenced_off" and one.position > head:
            proved.append(one.object_id)
        elif one.name == "vm.placed":
            lost_on = runs.get(one.object_id)
            if one.position > head and lost_on not in proved:
                world.break_promise(f"a VM of {lost_on} is placed, which is not proved off")
        if one.kind == "vm":
            run = states[one.object_id].run
            if run is not None:
                runs[one.object_id] = run.host
    if sorted(proved) != sorted(hosts):
        world.break_promise(f"proved off were {proved}")


def _states_and_hosts(
    recorded: list[Recorded],
) -> Iterator[tuple[Recorded, dict[str, VmState]]]:
    """Yield as `_states` does, and each event of a host besides."""
    states: dict[str, VmState] = {}
    of_vms = _states(recorded)
    for one in recorded:
        if one.kind == "vm":
            _one, states = next(of_vms)
        if one.kind in {"vm", "host"}:
            yield one, states


def check_fenced_at_once(world: World, recorded: list[Recorded], head: int, limit: int) -> int:
    """No more than so many hosts are being turned off at a time; return how many were, at most.

    One that is off takes no place, nor does one that waits for a person.
    """
    now: set[str] = set()
    most = 0
    fenced = {
        key: one.target_id for key, one in operations(recorded).items() if one.kind == FENCING
    }
    for one in recorded[head:]:
        if one.name == "host.fenced_off":
            now.discard(one.object_id)
        elif one.object_id in fenced:
            host = fenced[one.object_id]
            if one.name == "operation.started":
                now.add(host)
            elif one.name in {"operation.ended", "operation.needs_attention"}:
                now.discard(host)
        most = max(most, len(now))
    if most > limit:
        world.break_promise(f"{most} hosts were fenced at a time")
    return most


def check_hellos(world: World, since: float) -> int:
    """In no second do more hosts say hello than their back-off lets; return how many did, at most.

    At its longest it has each speak once in a time between its half and its whole, by chance.
    """
    seconds = collections.Counter(int(when) for when in world.hellos if when >= since)
    most = max(seconds.values(), default=0)
    mean = len(world.hosts) / (Timings().retry_max_s / 2)
    if most > mean + DEVIATIONS * math.sqrt(mean):
        world.break_promise(f"{most} hellos were said in one second")
    return most
