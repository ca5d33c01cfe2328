"""Testing whether a host can really be turned off: believed is the host, never its fence agents.

A host that says hello has power. So it is asked to say hello before it is turned off, and again
once its agents say that it is off: then nothing may come any more, until it has booted. The test
succeeds only by the hello of another boot, after the host was turned on again. Whatever fails after
off was ordered, the host is turned on again: of several power supplies one may really be off.
"""

from __future__ import annotations

from commands.policies import fence_orders as orders
from commands.policies.fence_orders import Exhausted
from commands.policies.saga import Saga, Scene, Step
from commands.state import lookup
from commands.state.host import HostState, HostStatus
from commands.state.host_power import FenceTry
from commands.state.operation import StepState
from events.envelope import NewEvent
from events.types.host_power import FenceAction, PowerState
from events.types.host_refresh import HostRefreshRequested
from events.types.operation import Outcome

STEPS = (
    Step(
        name="status",
        does="a proxy asks the fence agents, which must say that the host is on",
        undo="none needed",
        cancellable=True,
    ),
    Step(
        name="heard",
        does="the host says hello: only of one that is heard, silence shows something",
        undo="none needed",
        cancellable=True,
    ),
    Step(
        name="off",
        does="a proxy turns the host off, and its fence agents say that it is off",
        undo=orders.TAKEN_BACK,
        cancellable=True,
        point_of_no_return=True,
    ),
    Step(
        name="silent",
        does="the host is asked to say hello, and must not be heard any more",
        undo="none needed",
        cancellable=True,
    ),
    Step(
        name="on",
        does="a proxy turns the host on again",
        undo=orders.TAKEN_BACK,
        cancellable=True,
    ),
    Step(
        name="back",
        does="the host says hello, with the id of another boot",
        undo="none needed",
        cancellable=True,
    ),
)


def advance(scene: Scene) -> tuple[NewEvent, ...]:
    """Return the next move of a test."""
    host = lookup.host(scene.world, scene.operation.target_id)
    if scene.operation.cancel_requested:
        return _cancelled(scene, host)
    if _has_failed(scene):
        return _turn_on(scene, host)
    for step in (_status, _heard, _off, _silent, _on, _back):
        moves = step(scene, host)
        if moves is not None:
            return moves
    return scene.ended(Outcome.SUCCEEDED, _result(scene, host))


SAGA = Saga(kind="host.power_test_off", steps=STEPS, advance=advance)


# ---------------------------------------------------------------------- before it is off


def _status(scene: Scene, host: HostState) -> tuple[NewEvent, ...] | None:
    if scene.is_("status", StepState.DONE):
        return None
    won = orders.reached(scene, host, "status")
    if won is not None and won.state is PowerState.ON:
        done = scene.done("status", orders.says(won))
        return (*scene.own(done), *orders.clear(scene))
    if won is not None:
        why = (
            "Its fence agents say that it is off already. The test begins with a host that is on:"
            f" turn it on with 'chronovisor host power start {host.name}'."
        )
        return (*_refused(scene, "status", why), *scene.ended(Outcome.FAILED, why))
    ordered = _ordered(scene, host, "status", FenceAction.STATUS)
    if not isinstance(ordered, Exhausted):
        return ordered
    why = ordered.sentence
    return (*_refused(scene, "status", why), *scene.ended(Outcome.FAILED, why))


def _heard(scene: Scene, host: HostState) -> tuple[NewEvent, ...] | None:
    if scene.is_("heard", StepState.DONE):
        return None
    if scene.is_("heard", StepState.PENDING):
        return _ask(scene, host, "heard", scene.timeouts.launch_s)
    if not host.refresh:
        done = scene.done("heard", "It says hello.")
        return (*scene.own(done), *orders.clear(scene, "heard"))
    if "heard" not in scene.operation.fired:
        return ()
    why = (
        "Nothing is heard of the host, so that its silence would not show that it is off. See that"
        " its agent runs and reaches the engine, and test again."
    )
    return (*_refused(scene, "heard", why), *scene.ended(Outcome.FAILED, why))


def _off(scene: Scene, host: HostState) -> tuple[NewEvent, ...] | None:
    if scene.is_("off", StepState.DONE):
        return None
    heard = _heard_since_off(scene, host)
    if heard is not None:
        return _turning_on(scene, "off", heard)
    won = orders.reached(scene, host, "off")
    if won is not None:
        done = scene.done("off", orders.says(won))
        return (*scene.own(done), *orders.clear(scene))
    if host.status is not HostStatus.MAINTENANCE:
        taken_back = orders.withdraw_all(scene, host, "the host may not be turned off any more")
        why = f"The host is {host.status.replace('_', ' ')} meanwhile."
        return (*taken_back, *scene.ended(Outcome.FAILED, why))
    ordered = _ordered(scene, host, "off", FenceAction.OFF)
    if not isinstance(ordered, Exhausted):
        return ordered
    return _turning_on(scene, "off", ordered.sentence)


# ---------------------------------------------------------------------- off, as its agents say


def _silent(scene: Scene, host: HostState) -> tuple[NewEvent, ...] | None:
    """Listen for the host. What it answers to is what ends its session: it says hello at once."""
    if scene.is_("silent", StepState.DONE):
        return None
    heard = _heard_since_off(scene, host)
    if heard is not None:
        return _turning_on(scene, "silent", heard)
    said = _said_off(scene, host)
    if scene.is_("silent", StepState.PENDING):
        return _ask(scene, host, "silent", scene.timeouts.fencing.listen_s)
    if "silent" not in scene.operation.fired or said is None:
        return ()
    off = scene.target(orders.turned_off(host, said, automatic=False))
    return (*off, *scene.own(scene.done("silent", "Nothing is heard of it.")))


def _on(scene: Scene, host: HostState) -> tuple[NewEvent, ...] | None:
    if scene.is_("on", StepState.DONE):
        return None
    ordered = bool(orders.tries(scene, host, "on"))
    heard = _heard_since_off(scene, host)
    if heard is not None and not ordered:
        return _turning_on(scene, "silent", heard)
    won = orders.reached(scene, host, "on")
    if won is not None:
        return _is_on(scene, host, won)
    if ordered and _has_booted(scene, host):
        done = scene.done("on", "It is on: its agent says hello.")
        return (*scene.own(done), *orders.clear(scene))
    move = _ordered(scene, host, "on", FenceAction.ON)
    if not isinstance(move, Exhausted):
        return move
    why = f"It was turned off, and could not be turned on again: {move.sentence}"
    return (*_refused(scene, "on", why), *scene.ended(Outcome.FAILED, why))


def _back(scene: Scene, host: HostState) -> tuple[NewEvent, ...] | None:
    if scene.is_("back", StepState.DONE):
        return None
    if _has_booted(scene, host):
        done = scene.done("back", "It says hello, with the id of another boot.")
        return (*scene.own(done), *orders.clear(scene, "back"))
    heard = _heard_since_off(scene, host)
    if heard is not None:
        return (*_refused(scene, "back", heard), *scene.ended(Outcome.FAILED, heard))
    if scene.is_("back", StepState.PENDING):
        timer = scene.timer("back", scene.timeouts.fencing.boot_timeout_s)
        until = f"It has until {timer.due:%Y-%m-%d %H:%M:%S} UTC to boot."
        return scene.own(scene.started("back", detail=until), timer)
    if "back" not in scene.operation.fired:
        return ()
    why = (
        "Its fence agents say that it was turned off, and on again; but it has not said hello"
        f" with another boot within {scene.timeouts.fencing.boot_timeout_s:.0f} s. So it is not"
        " shown that off is really off. Look at the machine's console."
    )
    return (*_refused(scene, "back", why), *scene.ended(Outcome.FAILED, why))


def _said_off(scene: Scene, host: HostState) -> FenceTry | None:
    """Return the order to turn it off, once its fence agents have said that it is off."""
    mine = orders.tries(scene, host, "off")
    said = bool(mine) and mine[-1].state is PowerState.OFF and not mine[-1].withdrawn
    return mine[-1] if said else None


def _has_booted(scene: Scene, host: HostState) -> bool:
    """Tell whether the host has said hello with another boot since it was said to be off."""
    said = _said_off(scene, host)
    return said is not None and said.outdated and host.booted > said.position


def _heard_since_off(scene: Scene, host: HostState) -> str | None:
    """Return what is wrong where the host has said hello since it was said to be off."""
    said = _said_off(scene, host)
    if said is None or not said.outdated:
        return None
    names = " and ".join(agent.name for agent in said.order.agents)
    told = f"{names} said, through host {said.proxy_name}, that the host is off"
    if _has_booted(scene, host):
        return f"Off is not really off: {told}, and it has booted, though nobody turned it on."
    return (
        f"Off is not really off: {told}, but it said hello after that, with the boot that it had"
        " before. Fencing by these agents would let its VMs run twice: see to them."
    )


# ---------------------------------------------------------------------- the end


def _turning_on(scene: Scene, step: str, why: str) -> tuple[NewEvent, ...]:
    """Show what is wrong, and begin to turn the host on again: the test ends once that is done."""
    begun = scene.started("on", detail=why)
    cleared = (*orders.clear(scene), *orders.clear(scene, "silent"))
    return (*_refused(scene, step, why), *scene.own(begun), *cleared)


def _has_failed(scene: Scene) -> bool:
    """Tell whether a step failed after which the host is turned on again."""
    return scene.is_("off", StepState.REFUSED) or scene.is_("silent", StepState.REFUSED)


def _turn_on(scene: Scene, host: HostState) -> tuple[NewEvent, ...]:
    """Turn a host on again of which a test has failed, and end with what was wrong."""
    why = scene.operation.detail
    if scene.is_("on", StepState.DONE):
        return scene.ended(Outcome.FAILED, why)
    won = orders.reached(scene, host, "on")
    if won is not None:
        return _is_on(scene, host, won)
    ordered = _ordered(scene, host, "on", FenceAction.ON)
    if not isinstance(ordered, Exhausted):
        return ordered
    said = f"{why} It could not be turned on again either: {ordered.sentence}"
    return (*_refused(scene, "on", said), *scene.ended(Outcome.FAILED, said))


def _is_on(scene: Scene, host: HostState, won: FenceTry) -> tuple[NewEvent, ...]:
    done = scene.done("on", orders.says(won))
    return (*scene.target(orders.turned_on(host, won)), *scene.own(done), *orders.clear(scene))


def _cancelled(scene: Scene, host: HostState) -> tuple[NewEvent, ...]:
    said = "It was cancelled."
    if orders.tries(scene, host, "off"):
        said += f" The host may be off: 'chronovisor host power start {host.name}' turns it on."
    taken_back = orders.withdraw_all(scene, host, "it was cancelled")
    return (*taken_back, *scene.ended(Outcome.CANCELLED, said))


def _result(scene: Scene, host: HostState) -> str:
    said = _said_off(scene, host)
    told = "" if said is None else f" {orders.says(said)}"
    return (
        f"Off is really off.{told} Nothing was heard of the host then; and when it was turned on,"
        " it said hello with another boot."
    )


# ---------------------------------------------------------------------- what steps share


def _ordered(
    scene: Scene, host: HostState, step: str, action: FenceAction
) -> tuple[NewEvent, ...] | Exhausted:
    return orders.move(scene, host, step, action, host.power.groups())


def _ask(scene: Scene, host: HostState, step: str, wait_s: float) -> tuple[NewEvent, ...]:
    """Ask the host to say hello, which ends its session until it has, and wait for that."""
    asked = scene.target(HostRefreshRequested(name=host.name), addressee=host.id)
    timer = scene.timer(step, wait_s)
    return (*asked, *scene.own(scene.started(step), timer))


def _refused(scene: Scene, step: str, reason: str) -> tuple[NewEvent, ...]:
    return scene.own(scene.refused(step, reason))
