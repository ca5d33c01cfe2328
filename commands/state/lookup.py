"""Finding objects and refusing what their state does not allow, in the same words everywhere."""

from __future__ import annotations

from collections.abc import Container

from commands.kernel.fold import World
from commands.kernel.refusal import NotFound, PreconditionFailed, WrongState
from commands.state.cluster import CLUSTER, ClusterState
from commands.state.data_center import DATA_CENTER, DataCenterState
from commands.state.host import HOST, HostState, HostStatus
from commands.state.operation import OPERATION, OperationState
from commands.state.vm import VM, Run, VmState, VmStatus

EDITABLE = frozenset(VmStatus) - {
    VmStatus.IMAGE_LOCKED,
    VmStatus.IMAGE_ILLEGAL,
    VmStatus.REMOVING,
    VmStatus.REMOVED,
}
"""In which a VM's configuration can be changed."""


def data_center(world: World, object_id: str) -> DataCenterState:
    """Return the data center; raises NotFound."""
    state = world.get(DATA_CENTER, object_id)
    if state is None or state.removed:
        raise missing("data center", object_id)
    return state


def cluster(world: World, object_id: str) -> ClusterState:
    """Return the cluster; raises NotFound."""
    state = world.get(CLUSTER, object_id)
    if state is None or state.removed:
        raise missing("cluster", object_id)
    return state


def host(world: World, object_id: str) -> HostState:
    """Return the host; raises NotFound."""
    state = world.get(HOST, object_id)
    if state is None or state.removed:
        raise missing("host", object_id)
    return state


def require_no_ssh(state: HostState) -> None:
    """Refuse while the host's agent is being installed or removed over SSH."""
    if state.ssh.order is not None:
        raise WrongState(
            f"Host {state.name} is being worked on over SSH ({state.ssh.order.task}).",
            remedy="Wait until that has ended, or cancel its operation.",
        )


def require_out_of_service(state: HostState, also: Container[HostStatus]) -> None:
    """Refuse unless a host is in maintenance, be its machine on or off, or its status in `also`."""
    if state.status not in also and not state.at_rest:
        raise WrongState(
            f"Host {state.name} is {state.status.replace('_', ' ')}.",
            remedy="Put it into maintenance first.",
        )


def vm(world: World, object_id: str) -> VmState:
    """Return the VM; raises NotFound."""
    state = world.get(VM, object_id)
    if state is None or state.status is VmStatus.REMOVED:
        raise missing("VM", object_id)
    return state


def operation(world: World, object_id: str) -> OperationState:
    """Return the operation; raises NotFound."""
    state = world.get(OPERATION, object_id)
    if state is None:
        raise missing("operation", object_id)
    return state


def vm_status(world: World, state: VmState) -> VmStatus:
    """Return what can be known of the VM: unknown while a host that may run it is silent."""
    for name in state.may_run_on:
        where = world.get(HOST, name)
        if where is not None and where.mute:
            return VmStatus.UNKNOWN
    return state.status


def require_vm_status(
    world: World, state: VmState, allowed: Container[VmStatus], doing: str
) -> VmStatus:
    """Return the VM's status if it is among those allowed; raises WrongState."""
    status = vm_status(world, state)
    if doing != "updated" and state.status is not VmStatus.WAITING_FOR_LAUNCH:
        _require_confirmed(world, state, doing)
    if status in allowed:
        return status
    detail = f"VM {state.name} cannot be {doing} while it is {status.replace('_', ' ')}."
    raise WrongState(detail, remedy=_vm_remedy(state, status, doing), vm_status=str(status))


def _require_confirmed(world: World, state: VmState, doing: str) -> None:
    """Refuse what could harm a run that a restored log does not know of: where its files lie."""
    places = {state.disks_host, state.memory.host if state.memory is not None else None} - {None}
    for name in sorted(place for place in places if place is not None):
        where = world.get(HOST, name)
        if where is not None and where.unconfirmed:
            raise WrongState(
                f"VM {state.name} cannot be {doing}: since Chronovisor was restored from a backup,"
                f" host {where.name}, where its files lie, has not told whether it runs there.",
                remedy=f"Wait until the host has reported, or see for yourself and run 'host"
                f" confirm-state {where.name}'.",
                vm_status=str(VmStatus.UNKNOWN),
            )


def require_run(state: VmState) -> Run:
    """Return the VM's current run; raises WrongState where it has none."""
    if state.run is None:
        raise WrongState(f"VM {state.name} does not run on any host.", remedy="Start it first.")
    return state.run


def require_version(if_match: int | None, current: int) -> None:
    """Raise PreconditionFailed where the client saw another configuration than the current."""
    if if_match is not None and if_match != current:
        raise PreconditionFailed(
            f"The configuration is at version {current}, not {if_match}.",
            remedy="Read the object again and repeat the change on what it is now.",
        )


def _vm_remedy(state: VmState, status: VmStatus, doing: str) -> str:
    if status is VmStatus.UP and doing in {"started", "resumed"}:
        return "There is nothing to do: it runs."
    where = state.run.host_name if state.run else ""
    remedies = {
        VmStatus.UNKNOWN: f"Its host {where} does not answer: wait until it does, or confirm that"
        f" the machine is off with 'host confirm-off {where}'.",
        VmStatus.IMAGE_LOCKED: "Wait until its disks are made; the operation shows how far it is.",
        VmStatus.IMAGE_ILLEGAL: "Its disks could not be made: remove the VM and create it again.",
        VmStatus.UP: "Shut it down or power it off first.",
        VmStatus.DOWN: "Start it first.",
        VmStatus.PAUSED: "Resume it, or power it off, first.",
        VmStatus.SUSPENDED: "Resume it, or power it off, which gives its saved memory up, first.",
    }
    return remedies.get(status, "Wait until what is going on with it has ended.")


def missing(kind: str, object_id: str) -> NotFound:
    """Return the refusal of an id that names no object of a kind."""
    return NotFound(
        f"There is no {kind} with id {object_id}.",
        remedy="List the objects to see which there are; ids are not names.",
    )
