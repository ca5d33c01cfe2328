"""Fencing a host that is silent: soft first, then off, verified, proved, and on again (contract D).

It stops wherever the host answers before it is off. Off is ordered only while the gateway confirms
that it has listened in vain until now, and not soon after the host was switched: then it is only
asked whether it is off. The proof is one event, from which everything else follows:
the host's VMs are down, and may start elsewhere. What fails or contradicts itself proves nothing:
it is shown, and tried again.
"""

from __future__ import annotations

import datetime as dt

from commands.policies import fence_orders as orders
from commands.policies.fence_orders import Exhausted
from commands.policies.fence_rules import Loss, loss
from commands.policies.saga import Saga, Scene, Step
from commands.state import lookup
from commands.state.cluster import ClusterState
from commands.state.host import Duty, HostState
from commands.state.host_power import FenceTry
from commands.state.operation import StepState
from events.envelope import NewEvent
from events.types import operation as e
from events.types.host_power import (
    FenceAction,
    HostFenceFailed,
    HostSilenceQuestioned,
    PowerState,
)
from events.types.host_ssh import HostSshOrdered, SshTask
from events.types.operation import Outcome

KIND = "host.fence"
STEPS = (
    Step(
        name="soft",
        does="restart the host's agent over SSH, if it can be reached so",
        undo="none needed",
        cancellable=True,
    ),
    Step(
        name="kdump",
        does="wait while the host writes its kernel's dump",
        undo="none needed",
        cancellable=True,
    ),
    Step(
        name="confirm",
        does="the gateway confirms that it listened, and that the host is silent still",
        undo="none needed",
        cancellable=True,
    ),
    Step(
        name="quiet",
        does="leave a host alone that was switched a moment ago, but ask whether it is off",
        undo="none needed",
        cancellable=True,
    ),
    Step(
        name="off",
        does="a proxy turns the host off, and sees that it is off",
        undo="the order is taken back; what it did is not known",
        cancellable=True,
        point_of_no_return=True,
    ),
    Step(
        name="on",
        does="a proxy turns the host on again",
        undo="the order is taken back",
        cancellable=True,
    ),
)
RETRIES_LONGER_MAX = 4
"""So often the time until the next round doubles."""


def advance(scene: Scene) -> tuple[NewEvent, ...]:
    """Return the next move of a fencing."""
    host = lookup.host(scene.world, scene.operation.target_id)
    over = _over(scene, host)
    if over is not None:
        taken_back = orders.withdraw_all(scene, host, "the fencing is over")
        return (*taken_back, *scene.ended(*over))
    if host.unconfirmed:
        return scene.await_confirmation(host)
    for step in (_soft, _kdump, _confirm, _quiet, _off, _on):
        moves = step(scene, host)
        if moves is not None:
            return moves
    return scene.ended(Outcome.SUCCEEDED, "The host was turned off, which was verified, and on.")


SAGA = Saga(kind=KIND, steps=STEPS, advance=advance)


def _over(scene: Scene, host: HostState) -> tuple[Outcome, str] | None:
    """Return how it ends because of what else has happened; None where it goes on."""
    was_off = scene.is_("off", StepState.DONE)
    if not host.silent:
        if was_off:
            return Outcome.SUCCEEDED, "The host was turned off, which was verified; it answers."
        return Outcome.SUCCEEDED, "The host answers again; it was not turned off."
    if host.proved_off and not was_off:
        return Outcome.SUCCEEDED, "The host was proved to be off by other means."
    if host.duty is Duty.MAINTENANCE and not was_off:
        return Outcome.CANCELLED, "The host is in maintenance; nothing runs there."
    if scene.operation.cancel_requested:
        said = "It was turned off, and not on again." if was_off else "The fencing was cancelled."
        return Outcome.CANCELLED, said
    return None


def _soft(scene: Scene, host: HostState) -> tuple[NewEvent, ...] | None:
    """Have the agent restarted over SSH; whatever comes of it proves nothing.

    An agent that was restarted has the whole time to say hello: it has to start, and to look at
    what runs there. Where none was, only a margin is waited for.
    """
    if scene.is_("soft", StepState.DONE):
        return None
    rules, ssh = scene.timeouts.fencing, host.ssh
    if scene.is_("soft", StepState.PENDING):
        started = scene.started("soft")
        if ssh.access is None or not ssh.installed or ssh.order is not None:
            skipped = "The engine does not reach it over SSH, or is at work there."
            return scene.own(started, scene.done("soft", skipped))
        ordered = HostSshOrdered(
            name=host.name, order=scene.operation.id, task=SshTask.RESTART_AGENT
        )
        timer = scene.timer("soft", rules.soft_timeout_s)
        return (*scene.target(ordered), *scene.own(started, timer))
    fired = scene.operation.fired
    if "soft" in fired or "answers" in fired:
        was = "was" if ssh.restarted == scene.operation.id else "was to be"
        done = scene.done("soft", f"Its agent {was} restarted, and it does not answer.")
        return (*scene.own(done), *orders.clear(scene, "soft"), *orders.clear(scene, "answers"))
    over = ssh.order is None or ssh.order.order != scene.operation.id
    failed = over and ssh.restarted != scene.operation.id
    if failed and "answers" not in scene.operation.timers:
        return scene.own(scene.timer("answers", rules.margin_s))
    return ()


def _kdump(scene: Scene, host: HostState) -> tuple[NewEvent, ...] | None:
    """Wait while the host says that it writes a dump; it proves nothing."""
    if scene.is_("kdump", StepState.DONE):
        return None
    rules, power = scene.timeouts.fencing, host.power
    if scene.is_("kdump", StepState.PENDING):
        started = scene.started("kdump")
        if not power.kdump_detection:
            return scene.own(started, scene.done("kdump", "It is not looked for."))
        return scene.own(started, scene.timer("kdump", rules.kdump_wait_s))
    timers, fired = scene.operation.timers, scene.operation.fired
    if power.kdumping and "kdump_end" not in fired:
        if "kdump_end" in timers:
            return ()
        ending = scene.timer("kdump_end", rules.kdump_timeout_s)
        said = (
            "Its kernel crashed, and writes its dump; it is not turned off before it has, or before"
            f" {ending.due:%Y-%m-%d %H:%M:%S} UTC."
        )
        waiting = scene.started("kdump", detail=said)
        return (*scene.own(waiting, ending), *orders.clear(scene, "kdump"))
    if power.kdumping:
        return scene.own(scene.done("kdump", "It writes a dump for too long; it goes on."))
    if power.kdumped:
        done = scene.done("kdump", "It has written its dump.")
        return (*scene.own(done), *orders.clear(scene, "kdump_end"), *orders.clear(scene, "kdump"))
    if "kdump" in fired:
        return scene.own(scene.done("kdump", "It writes none."))
    return ()


def _confirm(scene: Scene, host: HostState) -> tuple[NewEvent, ...] | None:
    if scene.is_("confirm", StepState.DONE):
        return None
    blocked = _blocked(scene, host)
    if blocked is not None:
        return blocked
    if scene.is_("confirm", StepState.PENDING):
        return scene.own(scene.started("confirm"))
    unsure = _question(scene, host)
    return scene.own(scene.done("confirm")) if unsure is None else unsure


def _quiet(scene: Scene, host: HostState) -> tuple[NewEvent, ...] | None:
    """Do not turn a host off that was switched a moment ago: it may be booting.

    Whether it is off is asked all the same, again and again: that it is, is proof.
    """
    if scene.is_("quiet", StepState.DONE) or not scene.is_("off", StepState.PENDING):
        return None
    seen = orders.reached(scene, host, "quiet")
    if seen is not None and seen.state is PowerState.OFF:
        over = _quiet_over(scene, "It is off.")
        return (*over, *_prove(scene, host, seen))
    waiting = orders.waits(scene, host, "quiet")
    if waiting is not None:
        return waiting
    until = scene.timeouts.fencing.quiet_until(host.power)
    if until is None or scene.context.time >= until:
        over = _quiet_over(scene, "It was not turned off or on lately.")
        return (*over, *orders.clear(scene))
    if not scene.is_("quiet", StepState.RUNNING) or "look" in scene.operation.fired:
        return _look(scene, until)
    if seen is None:
        ordered = orders.order(scene, host, "quiet", FenceAction.STATUS, host.power.groups())
        if not isinstance(ordered, Exhausted):
            return ordered
    if "look" in scene.operation.timers:
        return ()
    return scene.own(scene.timer("look", scene.timeouts.fencing.margin_s))


def _look(scene: Scene, until: dt.datetime) -> tuple[NewEvent, ...]:
    """Begin to ask whether the host is off (again), saying why it is not turned off."""
    said = (
        f"It was turned off or on less than {scene.timeouts.fencing.quiet_s:.0f} s ago, and may be"
        f" booting: it is not turned off before {until:%Y-%m-%d %H:%M:%S} UTC. Whether it is off is"
        " asked meanwhile; that would be proof."
    )
    asking = scene.started("quiet", detail=said)
    again = e.OperationTimerCleared(timer="look", input=scene.input)
    timer = e.OperationTimerSet(timer="quiet", due=until, input=scene.input)
    return scene.own(asking, again if "look" in scene.operation.fired else timer)


def _quiet_over(scene: Scene, said: str) -> tuple[NewEvent, ...]:
    timers = (*orders.clear(scene, "quiet"), *orders.clear(scene, "look"))
    return (*scene.own(scene.done("quiet", said)), *timers)


def _off(scene: Scene, host: HostState) -> tuple[NewEvent, ...] | None:
    if scene.is_("off", StepState.DONE):
        return None
    won = orders.reached(scene, host, "off")
    if won is not None:
        return _prove(scene, host, won)
    waiting = orders.waits(scene, host, "off")
    if waiting is not None:
        return waiting
    if scene.is_("off", StepState.REFUSED) and "retry" not in scene.operation.fired:
        return ()
    blocked = _blocked(scene, host)
    if blocked is not None:
        return blocked
    if not scene.is_("off", StepState.RUNNING):
        return scene.own(scene.started("off"))
    unsure = _question(scene, host)
    if unsure is not None:
        return unsure
    ordered = orders.order(scene, host, "off", FenceAction.OFF, host.power.groups())
    if not isinstance(ordered, Exhausted):
        return ordered
    return _failed(scene, host, "off", FenceAction.OFF, ordered)


def _prove(scene: Scene, host: HostState, won: FenceTry) -> tuple[NewEvent, ...]:
    """Record the proof: its append fails where the host has spoken since."""
    proved = scene.target(orders.turned_off(host, won))
    return (*proved, *scene.own(scene.done("off", orders.says(won))), *orders.clear(scene))


def _on(scene: Scene, host: HostState) -> tuple[NewEvent, ...] | None:
    if scene.is_("on", StepState.DONE):
        return None
    won = orders.reached(scene, host, "on")
    if won is not None:
        done = scene.done("on", f"through host {won.proxy_name}")
        return (*scene.target(orders.turned_on(host, won)), *scene.own(done), *orders.clear(scene))
    waiting = orders.waits(scene, host, "on")
    if waiting is not None:
        return waiting
    if scene.is_("on", StepState.REFUSED) and "retry" not in scene.operation.fired:
        return ()
    if not scene.is_("on", StepState.RUNNING):
        return scene.own(scene.started("on"))
    ordered = orders.order(scene, host, "on", FenceAction.ON, host.power.groups())
    if not isinstance(ordered, Exhausted):
        return ordered
    return _failed(scene, host, "on", FenceAction.ON, ordered)


def _failed(
    scene: Scene, host: HostState, step: str, action: FenceAction, why: Exhausted
) -> tuple[NewEvent, ...]:
    """Show that a round came to nothing, and wait for the next: later each time."""
    rounds = scene.operation.attempts.get(step, 1)
    factor = 2 ** min(rounds - 1, RETRIES_LONGER_MAX)
    refused = scene.refused(step, why.reason)
    retry = scene.timer("retry", scene.timeouts.fencing.retry_s * factor)
    unknown = "" if action is FenceAction.ON else " What runs there is not known."
    attention = scene.attention(
        f"Host {host.name} could not be turned {action}: {why.reason}.{unknown}",
        f"host {host.name}",
        f"It is tried again by itself. Look at its fence agents; if you see that its machine is"
        f" off, say so with 'chronovisor host confirm-off {host.name}'.",
    )
    failed = HostFenceFailed(name=host.name, action=action, reason=why.reason)
    news = (*scene.target(failed), *scene.own(refused, retry))
    return (*news, *attention, *orders.clear(scene))


def _question(scene: Scene, host: HostState) -> tuple[NewEvent, ...] | None:
    """Have the silence confirmed by who listens; None where it was, a moment ago.

    An engine that was just started, stood still or lost its database confirms nothing until it has
    listened in vain for the whole time again.
    """
    power, rules = host.power, scene.timeouts.fencing
    if power.confirmed > power.questioned and power.confirmed_at is not None:
        age_s = (scene.context.time - power.confirmed_at).total_seconds()
        if 0 <= age_s <= rules.confirm_fresh_s:
            return orders.clear(scene, "confirm") or None
    if power.questioned <= power.confirmed:
        asked = scene.target(HostSilenceQuestioned(name=host.name))
        return (*asked, *scene.own(scene.timer("confirm", rules.retry_s)))
    if "confirm" not in scene.operation.fired:
        return ()
    return scene.attention(
        f"Whether host {host.name} is silent still cannot be told: the engine has not listened for"
        " long enough.",
        "the engine",
        "It goes on by itself once the engine has listened for the whole time, and the grace.",
    )


def _blocked(scene: Scene, host: HostState) -> tuple[NewEvent, ...] | None:
    """Return how it waits because the host may not be turned off now; None where it may."""
    why = _why_not(scene, host)
    if why is None:
        return orders.clear(scene, "again") or None
    again: tuple[NewEvent, ...] = ()
    if "again" not in scene.operation.timers:
        again = scene.own(scene.timer("again", scene.timeouts.fencing.retry_s))
    remedy = (
        "If you see that its machine is off, say so with 'chronovisor host confirm-off"
        f" {host.name}': then what ran there can start elsewhere."
    )
    return (*scene.attention(why, f"host {host.name}", remedy), *again)


def _why_not(scene: Scene, host: HostState) -> str | None:
    rules = scene.timeouts.fencing
    cluster = lookup.cluster(scene.world, host.cluster)
    if rules.protects(host):
        return f"Host {host.name} is never turned off: the engine or its database runs there."
    if not cluster.fencing.enabled:
        return f"Host {host.name} is not turned off: fencing is disabled in its cluster."
    if not host.power.enabled or not host.power.agents:
        return f"Host {host.name} cannot be turned off: it has no power management, or it is off."
    lost = loss(scene.hosts.values(), rules, cluster)
    if lost.held:
        return f"Host {host.name} is not turned off: {_storm(lost)}"
    if cluster.fencing_held or _are_coming(scene, cluster):
        return (
            f"Host {host.name} is not turned off yet: others of its cluster, lost with it, have"
            " just come back, and so may it."
        )
    return None


def _are_coming(scene: Scene, cluster: ClusterState) -> bool:
    """Tell whether hosts that a storm had taken may still be on their way back."""
    resumed = cluster.fencing_resumed_at
    if resumed is None:
        return False
    hellos = (each.session_at for each in scene.hosts.values() if each.cluster == cluster.id)
    back = max((hello for hello in hellos if hello is not None), default=None)
    return scene.context.time < scene.timeouts.fencing.calm_at(resumed, back)


def _storm(lost: Loss) -> str:
    """Return why so many lost hosts keep one from being turned off."""
    if lost.hosts == 1:
        return (
            "no other host of its data center is in service, so that none could turn it off, and"
            " it cannot be told from a failure of the engine's own network."
        )
    share = f"{lost.lost} of {lost.hosts} hosts, more than {lost.percent_max} %,"
    if lost.alone:
        return (
            f"it is the only host of its cluster, and {share} of its data center are lost at once:"
            " that is rather the network."
        )
    return f"{share} of its cluster are lost at once: that is rather the network."
