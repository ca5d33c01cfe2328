"""What a migration does where hosts do not do their part: wait, say so, and put it right.

A hypervisor that dies at the switch-over leaves the VM stopped on its source. Nothing of it is
lost: it goes on there by order, once the destination has promised that it has nothing of it. Where
post-copy breaks off, a part of the memory lies at each host: it goes on once they reach each other,
which their agents see to. Where one part is gone, only people can end that.
"""

from __future__ import annotations

from commands.policies.saga import Scene
from commands.state import lookup
from commands.state.host import HOST
from commands.state.vm import Migration, OpenJob, Run, VmState
from events.envelope import NewEvent
from events.types.migration import Held
from events.types.vm import DownReason
from events.types.vm_migration import VmMigrationRecalled, VmMigrationReleased

PATIENCE = "patience"


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
        return _attention(
            scene,
            f"The VM is stopped on host {run.host_name} and runs on host"
            f" {migration.destination_name}, but its migration was not completed.",
            f"host {run.host_name}",
            f"Power off what is left of it on host {run.host_name} there, on the host itself.",
        )
    if not migration.failed:
        recalled = VmMigrationRecalled(
            name=vm.name,
            incarnation=run.incarnation,
            host_name=run.host_name,
            destination=migration.destination,
        )
        return scene.target(recalled, addressee=migration.destination)
    if migration.dropped and job.job.sending is not None and not job.job.sending.released:
        released = VmMigrationReleased(
            name=vm.name, incarnation=run.incarnation, host=run.host, host_name=run.host_name
        )
        return scene.target(released, addressee=run.host)
    if PATIENCE not in scene.operation.fired:
        return _be_patient(scene)
    waits_for = run.host_name if migration.dropped else migration.destination_name
    return _attention(
        scene,
        f"The VM is stopped on host {run.host_name} since its hypervisor failed at the switch-over"
        " of the migration.",
        f"host {waits_for}",
        "It goes on by itself once the host answers; see to the hypervisor on that host.",
    )


def in_halves(scene: Scene, vm: VmState, run: Run, migration: Migration) -> tuple[NewEvent, ...]:
    """Say what becomes of a VM whose post-copy broke off, and what of it is lost."""
    origin = scene.world.get(HOST, migration.source)
    source = origin.name if origin is not None else migration.source
    destination = migration.destination_name
    if migration.departed:
        return _lost_half(scene, vm, here=run.host_name, gone=source)
    if migration.dropped or migration.held is Held.POST_COPY_LOST:
        return _lost_half(scene, vm, here=source, gone=destination)
    waits_for, silent = f"the line between hosts {source} and {destination}", ""
    for host in (migration.source, migration.destination):
        state = scene.world.get(HOST, host)
        if state is not None and state.mute:
            waits_for, silent = f"host {state.name}", f" Host {state.name} does not answer."
            break
    return _attention(
        scene,
        f"The VM stands still: the migration broke off in post-copy, while its memory was partly on"
        f" host {source} and partly on host {destination}.{silent} Nothing of it is lost as long as"
        " both run.",
        waits_for,
        "It goes on by itself, at the destination, once both hosts reach each other: they try again"
        " every 30 s. If one of them lost its power, its part is lost: Power the VM off"
        f" ('chronovisor vm stop {vm.name}') and start it again.",
    )


def left_in_halves(
    scene: Scene, vm: VmState, run: Run, migration: Migration
) -> tuple[NewEvent, ...]:
    """Say what is lost where the source ended. If it says that it sent all, the destination may
    only not have said yet that it goes on.
    """
    if migration.reason is DownReason.MIGRATED and PATIENCE not in scene.operation.fired:
        return _be_patient(scene)
    return in_halves(scene, vm, run, migration)


def _lost_half(scene: Scene, vm: VmState, *, here: str, gone: str) -> tuple[NewEvent, ...]:
    return _attention(
        scene,
        f"The VM stands still on host {here} and cannot go on: the rest of its memory was on host"
        f" {gone}, which has nothing of it any more. What its guest had only in memory is lost;"
        " its disks are as it left them.",
        "somebody who powers it off",
        f"Power it off ('chronovisor vm stop {vm.name}') and start it again.",
    )


def _attention(scene: Scene, reason: str, waits_for: str, remedy: str) -> tuple[NewEvent, ...]:
    return scene.attention(reason, waits_for, remedy)


def _be_patient(scene: Scene) -> tuple[NewEvent, ...]:
    """Give a host some time before anybody is bothered."""
    if PATIENCE in scene.operation.timers:
        return ()
    return scene.own(scene.timer(PATIENCE, scene.timeouts.launch_s))
