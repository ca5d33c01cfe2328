"""What a migration does where hosts do not do their part: wait, say so, and put it right.

A hypervisor that dies at the switch-over leaves the VM stopped on its source. Nothing of it is
lost: it goes on there by order, once the destination has promised that it has nothing of it. Where
post-copy breaks off, a part of the memory lies at each host: it goes on once they reach each other,
which their agents see to. Where one host has proved that it has nothing any more, or is proved off,
the run is over: the other drops its part, and the VM is down, to be restarted if it is highly
available. Never before both have nothing.
"""

from __future__ import annotations

from commands.policies.saga import Scene
from commands.state import lookup
from commands.state.host import HOST
from commands.state.orders import is_outdated, order_job, withdraw_run_jobs
from commands.state.vm import Migration, OpenJob, Run, VmState
from events.envelope import NewEvent
from events.types.job import JobKind
from events.types.migration import Held
from events.types.vm import DownReason
from events.types.vm_availability import FELL
from events.types.vm_migration import VmMigrationLost, VmMigrationRecalled, VmMigrationReleased

PATIENCE = "patience"
DROP, END = "drop", "end"
"""Timers: until a host has dropped its part, or ended what is left."""


def await_drop(scene: Scene, host: str) -> tuple[NewEvent, ...]:
    """Wait until a host has dropped what an earlier attempt or migration brought there."""
    mute = scene.await_host(host)
    if mute or scene.operation.attention is not None:
        return mute
    if PATIENCE not in scene.operation.fired:
        return _be_patient(scene)
    name = lookup.host(scene.world, host).name
    return scene.attention(
        f"Host {name} has not yet dropped what an earlier migration brought there.",
        f"host {name}",
        "It goes on by itself once the host has.",
    )


def held(
    scene: Scene, vm: VmState, run: Run, migration: Migration, job: OpenJob
) -> tuple[NewEvent, ...]:
    """Have a VM go on whose source holds it: first the destination drops its half."""
    if migration.held is not Held.SWITCH_OVER:
        return in_halves(scene, vm, run, migration)
    for host in (run.host, migration.destination):
        state = scene.world.get(HOST, host)
        if state is not None and state.mute:
            return scene.await_host(host)
    if migration.arrived:
        return _left_at_source(scene, run, migration)
    again = _order_again(scene, vm, run)
    if again:
        return again
    if not migration.failed:
        return _recall(scene, vm, run, migration)
    if migration.dropped and job.job.sending is not None and not job.job.sending.released:
        released = VmMigrationReleased(
            name=vm.name, incarnation=run.incarnation, host=run.host, host_name=run.host_name
        )
        return scene.target(released, addressee=run.host)
    if PATIENCE not in scene.operation.fired:
        return _be_patient(scene)
    waits_for = run.host_name if migration.dropped else migration.destination_name
    return scene.attention(
        f"The VM is stopped on host {run.host_name} since its hypervisor failed at the switch-over"
        " of the migration.",
        f"host {waits_for}",
        "It goes on by itself once the host answers; see to the hypervisor on that host.",
    )


def in_halves(scene: Scene, vm: VmState, run: Run, migration: Migration) -> tuple[NewEvent, ...]:
    """Say what becomes of a VM whose post-copy broke off, or end it where a part of it is lost."""
    origin = scene.world.get(HOST, migration.source)
    source = origin.name if origin is not None else migration.source
    destination = migration.destination_name
    if run.stopping:
        return scene.await_host(run.host)
    if migration.lost:
        return _await_end(scene, run, vm)
    if migration.departed:
        return _lost_half(scene, vm, run, migration, gone=source)
    if migration.dropped:
        return _lost_half(scene, vm, run, migration, gone=destination)
    if migration.held is Held.POST_COPY_LOST:
        return _await_promise(scene, vm, run, migration)
    again = _order_again(scene, vm, run)
    if again:
        return again
    waits_for, silent = f"the line between hosts {source} and {destination}", ""
    for host in (migration.source, migration.destination):
        state = scene.world.get(HOST, host)
        if state is not None and state.mute:
            waits_for, silent = f"host {state.name}", f" Host {state.name} does not answer."
            break
    return scene.attention(
        f"The VM stands still: the migration broke off in post-copy, while its memory was partly on"
        f" host {source} and partly on host {destination}.{silent} Nothing of it is lost as long as"
        " both run.",
        waits_for,
        "It goes on by itself, at the destination, once both hosts reach each other: they try again"
        " every 30 s. If one of them lost its power, its part is lost: the VM is down once that"
        " host answers, or is proved off ('chronovisor host confirm-off').",
    )


def given_up(scene: Scene, vm: VmState, run: Run, migration: Migration) -> tuple[NewEvent, ...]:
    """End what is in halves whose source will not go on with it: never is a half let run."""
    if run.stopping or migration.dropped:
        return in_halves(scene, vm, run, migration)
    if migration.arrived:
        return _left_at_source(scene, run, migration)
    return _await_promise(scene, vm, run, migration)


def left_in_halves(
    scene: Scene, vm: VmState, run: Run, migration: Migration
) -> tuple[NewEvent, ...]:
    """End what is left where the source ended. If it says that it sent all, the destination may
    only not have said yet that it goes on.
    """
    if migration.reason is DownReason.MIGRATED and PATIENCE not in scene.operation.fired:
        return _be_patient(scene)
    return in_halves(scene, vm, run, migration)


def _order_again(scene: Scene, vm: VmState, run: Run) -> tuple[NewEvent, ...]:
    """Order a held VM's migration anew that was ordered before the log was restored: once its hosts
    have told what they run, and its source has it still, it is known not to be over.
    """
    hosts = [scene.world.get(HOST, host) for host in vm.may_run_on]
    source = scene.world.get(HOST, run.host)
    if source is None or any(host is not None and host.unconfirmed for host in hosts):
        return ()
    if vm.id in source.missing or (vm.migration is not None and vm.migration.arrived):
        return ()
    return tuple(
        order_job(entry.job, entry.host)
        for entry in vm.jobs
        if entry.job.kind is JobKind.VM_MIGRATE and is_outdated(entry, source.restored)
    )


def _left_at_source(scene: Scene, run: Run, migration: Migration) -> tuple[NewEvent, ...]:
    return scene.attention(
        f"The VM is stopped on host {run.host_name} and runs on host"
        f" {migration.destination_name}, but its migration was not completed.",
        f"host {run.host_name}",
        f"Power off what is left of it on host {run.host_name} there, on the host itself.",
    )


def _lost_half(
    scene: Scene, vm: VmState, run: Run, migration: Migration, *, gone: str
) -> tuple[NewEvent, ...]:
    """Have the host of the run drop its half: the other host has nothing of the VM for certain."""
    known = migration.departed and migration.reason in FELL
    lost = VmMigrationLost(
        name=vm.name,
        incarnation=run.incarnation,
        host=run.host,
        host_name=run.host_name,
        lost_host_name=gone,
        reason=migration.reason if known else DownReason.CRASHED,
        detail=f"The migration broke off in post-copy, and host {gone}, where a part of the VM's"
        " memory was, has nothing of it any more.",
    )
    return (*scene.target(lost, addressee=run.host), *withdraw_run_jobs(vm))


def _await_promise(
    scene: Scene, vm: VmState, run: Run, migration: Migration
) -> tuple[NewEvent, ...]:
    """Have the destination promise that it has nothing, of which it told the source already."""
    if not migration.failed:
        return _recall(scene, vm, run, migration)
    return _await_host(
        scene,
        DROP,
        migration.destination,
        f"The VM stands still on host {run.host_name}: the rest of its memory was on host"
        f" {migration.destination_name}, which has not promised yet that it has nothing of it.",
    )


def _await_end(scene: Scene, run: Run, vm: VmState) -> tuple[NewEvent, ...]:
    return _await_host(
        scene,
        END,
        run.host,
        f"Half of VM {vm.name} is lost, and host {run.host_name} has not yet ended what is left.",
    )


def _await_host(scene: Scene, timer: str, host: str, reason: str) -> tuple[NewEvent, ...]:
    """Wait for a host to do what it was ordered: visibly while it is silent, or takes long."""
    state = scene.world.get(HOST, host)
    if state is not None and state.mute:
        return scene.await_host(host)
    if timer in scene.operation.fired:
        remedy = "It goes on by itself; see to the hypervisor on that host."
        return scene.attention(reason, f"host {lookup.host(scene.world, host).name}", remedy)
    return _be_patient(scene, timer)


def _recall(scene: Scene, vm: VmState, run: Run, migration: Migration) -> tuple[NewEvent, ...]:
    """Have the destination drop what it has, and promise it."""
    recalled = VmMigrationRecalled(
        name=vm.name,
        incarnation=run.incarnation,
        host_name=run.host_name,
        destination=migration.destination,
    )
    return scene.target(recalled, addressee=migration.destination)


def _be_patient(scene: Scene, timer: str = PATIENCE) -> tuple[NewEvent, ...]:
    """Give a host some time before anybody is bothered."""
    if timer in scene.operation.timers:
        return ()
    return scene.own(scene.timer(timer, scene.timeouts.launch_s))
