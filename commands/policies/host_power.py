"""Power management by hand: asking, turning on, off, and off and on again."""

from __future__ import annotations

from commands.policies import fence_orders as orders
from commands.policies.fence_orders import Exhausted, Group
from commands.policies.saga import Saga, Scene, Step
from commands.state import lookup
from commands.state.host import HostState
from commands.state.host_power import FenceTry
from commands.state.operation import StepState
from commands.state.power_fields import MAY_BE_OFF
from events.envelope import NewEvent
from events.types.base import Event
from events.types.host_power import FenceAction
from events.types.operation import Outcome

STATUS = Step(
    name="status",
    does="a proxy asks the fence agents whether the host is on",
    undo="none needed",
    cancellable=True,
)
OFF = Step(
    name="off",
    does="a proxy turns the host off, and sees that it is off",
    undo=orders.TAKEN_BACK,
    cancellable=True,
    point_of_no_return=True,
)
ON = Step(name="on", does="a proxy turns the host on", undo=orders.TAKEN_BACK, cancellable=True)
_ACTIONS = {"status": FenceAction.STATUS, "off": FenceAction.OFF, "on": FenceAction.ON}
_TEST = "host.power_test"


def advance(scene: Scene) -> tuple[NewEvent, ...]:
    """Return the next move of what an admin wants of a host's power."""
    host = lookup.host(scene.world, scene.operation.target_id)
    if scene.operation.cancel_requested:
        taken_back = orders.withdraw_all(scene, host, "it was cancelled")
        return (*taken_back, *scene.ended(Outcome.CANCELLED, "It was cancelled."))
    for step in scene.operation.steps:
        if not scene.is_(step, StepState.DONE):
            return _step(scene, host, step)
    return scene.ended(Outcome.SUCCEEDED, _result(scene, host))


def _step(scene: Scene, host: HostState, step: str) -> tuple[NewEvent, ...]:
    action = _ACTIONS[step]
    if action is FenceAction.OFF and host.status not in MAY_BE_OFF:
        taken_back = orders.withdraw_all(scene, host, "the host may not be turned off any more")
        why = f"The host is {host.status.replace('_', ' ')} meanwhile."
        return (*taken_back, *scene.ended(Outcome.FAILED, why))
    won = orders.reached(scene, host, step)
    if won is not None:
        followed = scene.target(*_follows(host, won))
        return (*followed, *scene.own(scene.done(step, orders.says(won))), *orders.clear(scene))
    if action is FenceAction.ON and orders.spoke_since(scene, host, step):
        done = scene.done(step, "It is on: its agent says hello.")
        return (*scene.own(done), *orders.clear(scene))
    move = orders.move(scene, host, step, action, _groups(scene, host))
    if not isinstance(move, Exhausted):
        return move
    refused = scene.own(scene.refused(step, move.sentence))
    return (*refused, *scene.ended(Outcome.FAILED, move.sentence))


def _groups(scene: Scene, host: HostState) -> tuple[Group, ...]:
    """Return the agents to try: a test asks all at once, for all of them have to work."""
    return (host.power.agents,) if scene.operation.kind == _TEST else host.power.groups()


def _follows(host: HostState, won: FenceTry) -> tuple[Event, ...]:
    if won.order.action is FenceAction.OFF:
        return (orders.turned_off(host, won, automatic=False),)
    return (orders.turned_on(host, won),) if won.order.action is FenceAction.ON else ()


def _result(scene: Scene, host: HostState) -> str:
    """Return what the operation ends with, in words."""
    last = tuple(scene.operation.steps)[-1]
    won = orders.reached(scene, host, last)
    said = "It is done." if won is None else orders.says(won)
    if scene.operation.kind != _TEST:
        return said
    groups = [" and ".join(agent.name for agent in group) for group in host.power.groups()]
    return f"{said} To turn it off, {', or else '.join(groups)} must say that it is off."


SAGAS = (
    Saga(kind="host.power_status", steps=(STATUS,), advance=advance),
    Saga(kind=_TEST, steps=(STATUS,), advance=advance),
    Saga(kind="host.power_start", steps=(ON,), advance=advance),
    Saga(kind="host.power_stop", steps=(OFF,), advance=advance),
    Saga(kind="host.power_restart", steps=(OFF, ON), advance=advance),
)
