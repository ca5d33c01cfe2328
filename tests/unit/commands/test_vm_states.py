"""Which verb is allowed in which state of a VM: the whole matrix, said once more.

Where oVirt allows more, its reason is in the table: what it would do to a paused guest by ACPI, and
a second shutdown while one goes on, is of no use here.
"""

from __future__ import annotations

import pytest

from commands.kernel.command import Command
from commands.kernel.refusal import NotFound, WrongState
from commands.kernel.testing import given
from commands.state.vm import VmStatus
from commands.vm.migrate import MigrateVm
from commands.vm.reboot import RebootVm
from commands.vm.remove import RemoveVm
from commands.vm.resume import ResumeVm
from commands.vm.shutdown import ShutDownVm
from commands.vm.start import StartVm
from commands.vm.stop import StopVm
from commands.vm.suspend import SuspendVm
from commands.vm.update import UpdateVm
from tests.unit.commands.samples import VM_ID, vm

COMMANDS: dict[str, Command] = {
    "start": StartVm(id=VM_ID),
    "start, memory given up": StartVm(id=VM_ID, discard_saved_memory=True),
    "resume": ResumeVm(id=VM_ID),
    "shutdown": ShutDownVm(id=VM_ID),
    "stop": StopVm(id=VM_ID),
    "reboot": RebootVm(id=VM_ID),
    "suspend": SuspendVm(id=VM_ID),
    "migrate": MigrateVm(id=VM_ID),
    "remove": RemoveVm(id=VM_ID),
    "update": UpdateVm(id=VM_ID, description="new"),
}
S = VmStatus
ALLOWED: dict[str, frozenset[VmStatus]] = {
    "start": frozenset({S.DOWN}),
    "start, memory given up": frozenset({S.DOWN, S.SUSPENDED}),
    "resume": frozenset({S.SUSPENDED, S.PAUSED}),
    "shutdown": frozenset({S.UP, S.POWERING_UP, S.REBOOT_IN_PROGRESS}),
    "stop": frozenset(S)
    - {S.IMAGE_LOCKED, S.IMAGE_ILLEGAL, S.DOWN, S.SAVING_STATE, S.UNKNOWN, S.REMOVING},
    "reboot": frozenset({S.UP, S.POWERING_UP}),
    "suspend": frozenset({S.UP}),
    "migrate": frozenset({S.UP}),
    "remove": frozenset({S.DOWN, S.IMAGE_ILLEGAL}),
    "update": frozenset(S) - {S.IMAGE_LOCKED, S.IMAGE_ILLEGAL, S.REMOVING},
}
MATRIX = [(verb, status) for verb in COMMANDS for status in VmStatus]


@pytest.mark.parametrize(("verb", "status"), MATRIX)
def test_a_verb_is_allowed_in_its_states_only(verb: str, status: VmStatus) -> None:
    when = vm(status).when(COMMANDS[verb])
    if status is VmStatus.REMOVED:
        when.refused(NotFound, VM_ID)
    elif status in ALLOWED[verb]:
        assert when.events
    else:
        refusal = when.refused(WrongState, "web01", status.replace("_", " "))
        assert refusal.remedy
        assert refusal.extra["vm_status"] == status


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_vm_that_never_was_is_not_found(verb: str) -> None:
    given().when(COMMANDS[verb]).refused(NotFound, VM_ID)


def test_an_unknown_vm_tells_how_its_wait_can_end() -> None:
    vm(VmStatus.UNKNOWN).when(StartVm(id=VM_ID)).refused(WrongState, "host confirm-off kvm01")
