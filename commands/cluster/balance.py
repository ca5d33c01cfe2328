"""Move a cluster's VMs to where they are better off."""

from __future__ import annotations

from typing import Annotated

import msgspec

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import InvalidField, NotFound, WrongState
from commands.state import lookup
from commands.state.operation import begin
from events.types.balancing import ClusterBalanceBegun, PlannedMove

MOVES_MAX = 1_000


class MoveInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One move of a plan: a VM, and the host that it is to run on."""

    vm: Id
    host: Id
    reason: Annotated[str, msgspec.Meta(max_length=500)] = ""


Moves = Annotated[
    tuple[MoveInput, ...],
    msgspec.Meta(max_length=MOVES_MAX, description="The moves to be made, as previewed."),
]


@command(
    "cluster.balance",
    path="/v1/clusters/{id}/balance",
    permission="EDIT_CLUSTER_CONFIGURATION",
    verb="cluster balance",
    long=True,
    refusals=(NotFound, InvalidField, WrongState),
)
class BalanceCluster(Command, frozen=True, kw_only=True):
    """Move a cluster's VMs to where they are better off.

    Makes the moves that a preview has shown, or, where none are given, those that would be shown
    now. The operation shows each; a cancel lets what is under way end, and begins no more.
    """

    id: Id
    moves: Moves = ()

    def decide(self, world: World, context: Context) -> Decision:
        """Begin the operation; the policies move the VMs."""
        lookup.cluster(world, self.id)
        if len({move.vm for move in self.moves}) < len(self.moves):
            raise InvalidField("A VM is named twice.", remedy="Name each VM once.", field="moves")
        moves = tuple(_planned(world, self.id, move) for move in self.moves)
        return begin_balance(world, context, self.id, moves)


def begin_balance(
    world: World, context: Context, cluster: str, moves: tuple[PlannedMove, ...]
) -> Decision:
    """Return the decision to make moves, which policies may make as well; none: those of a plan
    that is to be made. Raises NotFound, and WrongState while VMs are being moved already.
    """
    state = lookup.cluster(world, cluster)
    if state.balance.operation is not None:
        raise WrongState(
            f"VMs of cluster {state.name} are being moved already.",
            remedy=f"Wait for operation {state.balance.operation}, or cancel it.",
            operation=state.balance.operation,
        )
    operation = str(context.command)
    begun = ClusterBalanceBegun(name=state.name, operation=operation, moves=moves)
    return Decision.of(
        cluster,
        *on(f"cluster/{cluster}", begun),
        begin(
            context,
            "cluster.balance",
            f"cluster/{cluster}",
            state.name,
            "plan",
            "move",
            cancellable=True,
        ),
        operation=operation,
    )


def _planned(world: World, cluster: str, move: MoveInput) -> PlannedMove:
    """Return a move with names; raises NotFound and InvalidField."""
    vm, host = lookup.vm(world, move.vm), lookup.host(world, move.host)
    if vm.cluster != cluster or host.cluster != cluster:
        stray = f"VM {vm.name}" if vm.cluster != cluster else f"Host {host.name}"
        raise InvalidField(
            f"{stray} is of another cluster.", remedy="Preview the plan anew.", field="moves"
        )
    return PlannedMove(
        vm=vm.id,
        vm_name=vm.name,
        source=vm.run.host if vm.run is not None else "",
        source_name=vm.run.host_name if vm.run is not None else "",
        destination=host.id,
        destination_name=host.name,
        reason=move.reason,
    )
