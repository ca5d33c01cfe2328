"""Serial numbers: what admins ask for, and what a run of a VM shows its guest."""

from __future__ import annotations

from typing import Annotated

import msgspec

from commands.kernel.fields import END
from commands.kernel.refusal import InvalidField
from commands.state.cluster import ClusterState
from commands.state.host import HostState
from commands.state.vm import VmState
from events.types.run_spec import SerialNumber, SerialPolicy

_Value = Annotated[
    str,
    msgspec.Meta(
        max_length=64,
        pattern=r"^([!-~]([ -~]*[!-~])?)?" + END,
        description="The serial number of policy custom: up to 64 printable ASCII characters.",
    ),
]


class SerialNumberInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What guests read as the machine's serial number: the VM's id (vm), the hardware id of the
    host that the VM is started on (host), or a text (custom, with `value`).
    """

    policy: SerialPolicy = SerialPolicy.VM
    value: _Value = ""

    def settings(self) -> SerialNumber:
        """Return it as it is kept; raises InvalidField where policy and value do not fit."""
        if (self.policy is SerialPolicy.CUSTOM) is not bool(self.value):
            custom = self.policy is SerialPolicy.CUSTOM
            raise InvalidField(
                "Policy custom needs a value." if custom else f"Policy {self.policy} has no value.",
                remedy="Give the serial number as value." if custom else "Leave the value out.",
                field="serial_number",
            )
        return SerialNumber(policy=self.policy, value=self.value)


def serial_of(vm: VmState, cluster: ClusterState, host: HostState | None) -> str | None:
    """Return the serial number of a run that begins on a host; None for the VM's id."""
    wanted = vm.configuration.serial_number or cluster.serial_number
    if wanted.policy is SerialPolicy.CUSTOM:
        return wanted.value
    if wanted.policy is SerialPolicy.VM or host is None:
        return None
    return host.identity.hardware if host.identity is not None else host.id
