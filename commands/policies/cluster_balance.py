"""Moving a cluster's VMs to where they are better off: make a plan, then see its moves through.

The migrations are operations of their own, a few at a time, which `balancing` begins; this saga
tells what came of each, and ends when none is left. A VM that cannot be moved stays, and the others
go on.
"""

from __future__ import annotations

from commands.policies.balance_moves import Found, Standing, standing
from commands.policies.saga import Saga, Scene, Step
from commands.state import lookup
from commands.state.cluster import ClusterState
from commands.state.host import HOST
from commands.state.operation import StepState
from commands.state.vm import VM
from events.envelope import NewEvent
from events.types import operation as e
from events.types.balancing import (
    ClusterBalanceBegun,
    ClusterBalanceEnded,
    ClusterBalanceMoveSettled,
)
from events.types.operation import Outcome

STEPS = (
    Step(
        name="plan",
        does="find out which VMs are to be moved, unless that was said",
        undo="none needed",
        cancellable=True,
    ),
    Step(
        name="move",
        does="migrate them, a few at a time",
        undo="begin no more; what is under way ends by itself",
        cancellable=True,
    ),
)
CANCELLED = "No more VMs are moved, since that was cancelled."


def advance(scene: Scene) -> tuple[NewEvent, ...]:
    """Return the next move of the operation."""
    cluster = lookup.cluster(scene.world, scene.operation.target_id)
    if cluster.balance.operation != scene.operation.id:
        return scene.ended(Outcome.FAILED, "The cluster is balanced by another operation.")
    if not scene.is_("plan", StepState.DONE):
        return _plan(scene, cluster)
    return _follow(scene, cluster)


SAGA = Saga(kind="cluster.balance", steps=STEPS, advance=advance)


def _plan(scene: Scene, cluster: ClusterState) -> tuple[NewEvent, ...]:
    moves = cluster.balance.moves
    if scene.operation.cancel_requested:
        return _end(scene, cluster, Outcome.CANCELLED, CANCELLED)
    if moves:
        return _planned(scene, len(moves))
    moves = scene.plan(cluster.id).moves
    if not moves:
        nothing = scene.own(scene.done("plan", "nothing is to be moved"), scene.done("move"))
        return (*nothing, *_end(scene, cluster, Outcome.SUCCEEDED, "All is well as it is."))
    begun = ClusterBalanceBegun(name=cluster.name, operation=scene.operation.id, moves=moves)
    return (*scene.target(begun), *_planned(scene, len(moves)))


def _planned(scene: Scene, count: int) -> tuple[NewEvent, ...]:
    detail = f"{count} VM{'s are' if count > 1 else ' is'} to be moved"
    return scene.own(scene.done("plan", detail), scene.started("move"))


def _follow(scene: Scene, cluster: ClusterState) -> tuple[NewEvent, ...]:
    """Tell what came of moves; end when none is left, or none is under way after a cancel."""
    found = [
        standing(scene.operation.id, move, scene.world.get(VM, move.vm))
        for move in cluster.balance.moves
    ]
    settled = [each for each in found if each.standing in {Standing.ARRIVED, Standing.STAYED}]
    told = scene.target(*(_settled(scene, cluster, each) for each in settled))
    left = [each for each in found if each not in settled]
    if left and scene.operation.cancel_requested:
        left = [each for each in left if each.standing is Standing.UNDER_WAY]
        if not left:
            return (*told, *_end(scene, cluster, Outcome.CANCELLED, CANCELLED))
    if left:
        return (*told, *_progressed(scene, cluster, len(left)), *_waits(scene, left))
    stayed = cluster.balance.stayed + sum(each.standing is Standing.STAYED for each in settled)
    if not stayed:
        done = scene.own(scene.done("move"))
        return (*told, *done, *_end(scene, cluster, Outcome.SUCCEEDED))
    reason = _reason(cluster, settled, stayed)
    refused = scene.refused("move", reason)
    return (*told, *scene.own(refused), *_end(scene, cluster, Outcome.FAILED, reason))


def _waits(scene: Scene, left: list[Found]) -> tuple[NewEvent, ...]:
    """Say which silent host is waited for; or that none is any more."""
    for found in left:
        vm = scene.world.get(VM, found.move.vm)
        if found.standing is Standing.UNDER_WAY and vm is not None:
            for host in vm.may_run_on:
                state = scene.world.get(HOST, host)
                if state is not None and state.mute:
                    return scene.await_host(host)
    return scene.own(scene.started("move")) if scene.operation.attention else ()


def _settled(scene: Scene, cluster: ClusterState, found: Found) -> ClusterBalanceMoveSettled:
    return ClusterBalanceMoveSettled(
        name=cluster.name,
        operation=scene.operation.id,
        vm=found.move.vm,
        vm_name=found.move.vm_name,
        moved=found.standing is Standing.ARRIVED,
        reason=found.reason,
    )


def _progressed(scene: Scene, cluster: ClusterState, left: int) -> tuple[NewEvent, ...]:
    total = max(1, cluster.balance.total)
    percent = 100 * max(0, total - left) // total
    if percent <= scene.operation.progress.get("move", 0):
        return ()
    return scene.own(e.OperationProgressed(step="move", percent=percent))


def _reason(cluster: ClusterState, settled: list[Found], stayed: int) -> str:
    newly = [f"{f.move.vm_name}: {f.reason}" for f in settled if f.standing is Standing.STAYED]
    told = [*cluster.balance.stay, *newly][:5]
    return f"{stayed} of {cluster.balance.total} VMs stay where they are. {' '.join(told)}"


def _end(
    scene: Scene, cluster: ClusterState, outcome: Outcome, reason: str = ""
) -> tuple[NewEvent, ...]:
    over = ClusterBalanceEnded(name=cluster.name, operation=scene.operation.id)
    return (*scene.target(over), *scene.ended(outcome, reason))
