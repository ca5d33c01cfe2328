"""Cancel an operation."""

from __future__ import annotations

from commands.kernel.command import Command, Context, Decision, command, on
from commands.kernel.fields import Id
from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, WrongState
from commands.state import lookup
from events.types.operation import OperationCancelRequested


@command(
    "operation.cancel",
    path="/v1/operations/{id}/cancel",
    permission="RUN_VM",
    verb="operation cancel",
    refusals=(NotFound, WrongState),
)
class CancelOperation(Command, frozen=True, kw_only=True):
    """Cancel an operation.

    What it did so far is undone, as far as that is possible; the operation shows it.
    """

    id: Id

    def decide(self, world: World, context: Context) -> Decision:
        """Ask for it; the operation's policy carries it out."""
        del context
        state = lookup.operation(world, self.id)
        if not state.open:
            raise WrongState(
                f"The operation has {state.outcome}.", remedy="There is nothing to cancel."
            )
        if not state.cancellable:
            raise WrongState(
                f"{state.kind} of {state.name} cannot be cancelled.",
                remedy="Wait until it has ended.",
            )
        if state.cancel_requested:
            return Decision.of(self.id)
        return Decision.of(self.id, *on(f"operation/{self.id}", OperationCancelRequested()))
