"""Removing a VM's files, and then the VM."""

from __future__ import annotations

from commands.policies.saga import Saga, Scene, Step
from commands.state import lookup
from commands.state.host import HOST
from commands.state.orders import order_job
from commands.state.strays import runs_stray
from commands.state.vm import VmState
from commands.vm.remove import removal_jobs, removed
from events.envelope import NewEvent
from events.types import operation as e
from events.types.job import Job
from events.types.operation import Outcome

STEPS = (
    Step(
        name="remove_volumes",
        does="every host removes the VM's files, tried again until it works",
        undo="none: what is removed is gone",
        cancellable=False,
        point_of_no_return=True,
    ),
)


def advance(scene: Scene) -> tuple[NewEvent, ...]:
    """Wait for the hosts; try again after a while what failed."""
    vm = lookup.vm(scene.world, scene.operation.target_id)
    generation = max(1, scene.operation.attempts.get("remove_volumes", 1))
    jobs = _jobs(scene, vm, generation)
    waits_for = [host for host, job in jobs.items() if vm.job(job.id) is not None]
    if waits_for:
        withheld = _withheld(scene, vm)
        return scene.await_files(*waits_for) if withheld is None else withheld
    failed = {host: job for host, job in jobs.items() if _failure(vm, job) is not None}
    if not failed:
        ended = scene.ended(Outcome.SUCCEEDED)
        return (*scene.target(removed(vm)), *scene.own(scene.done("remove_volumes")), *ended)
    return _try_again(scene, vm, failed, generation + 1)


SAGA = Saga(kind="vm.remove", steps=STEPS, advance=advance)


def _withheld(scene: Scene, vm: VmState) -> tuple[NewEvent, ...] | None:
    """Say why the engine asks no host to remove the files, after a restore; None where it does.

    The VM may run in what the restored log has lost, and its files are not taken from under it
    (`commands.gateway.aftermath`).
    """
    for host in scene.unconfirmed:
        if host.cluster == vm.cluster:
            return scene.await_confirmation(host)
    for known in scene.hosts.values() if scene.incarnations_from else ():
        if runs_stray(known, vm.id):
            host = lookup.host(scene.world, known.id)
            return scene.attention(
                f"Host {host.name} runs the VM, as it was started or moved in what the restored log"
                " has lost.",
                f"host {host.name}",
                f"The VM's files are removed when that copy has ended: end domain {vm.id} on the"
                " host itself.",
            )
    return None


def _jobs(scene: Scene, vm: VmState, generation: int) -> dict[str, Job]:
    """Return the jobs by host; what lay on a host that was removed since is gone with it."""
    jobs = removal_jobs(vm, scene.operation.id, generation)
    hosts = {host: scene.world.get(HOST, host) for host in jobs}
    return {
        host: job
        for host, job in jobs.items()
        if (state := hosts[host]) is not None and not state.removed
    }


def _failure(vm: VmState, job: Job) -> str | None:
    finished = vm.finished(job.id)
    return finished.reason if finished is not None and not finished.done else None


def _try_again(
    scene: Scene, vm: VmState, failed: dict[str, Job], generation: int
) -> tuple[NewEvent, ...]:
    if "retry" in scene.operation.timers:
        return ()
    if "retry" in scene.operation.fired:
        jobs = _jobs(scene, vm, generation)
        begun = e.OperationStepStarted(step="remove_volumes", input=scene.input, attempt=generation)
        cleared = e.OperationTimerCleared(timer="retry", input=scene.input)
        orders = (order_job(job, host) for host, job in jobs.items())
        return (*orders, *scene.own(begun, cleared))
    host, job = next(iter(failed.items()))
    attention = scene.attention(
        f"Files of the VM could not be removed: {_failure(vm, job)}",
        f"host {lookup.host(scene.world, host).name}",
        "It is tried again by itself.",
    )
    return (*attention, *scene.own(scene.timer("retry", scene.timeouts.retry_s)))
