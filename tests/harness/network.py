"""The network between the test's process (where the engine runs) and its hosts, and the guests' own
network.

Two bridges in the outer network namespace, with names and a subnet that no other test run has: the
manager's bridge carries 10.99.N.1, where an engine of the test can listen; the guests' bridge has
no address and only joins the `br0` of the hosts.
"""

import secrets

from tests.harness.processes import HarnessError, run_command
from tests.harness.workspace import Workspace

SUBNET_FIRST, SUBNET_LAST = 2, 250
HOST_ADDRESS_OFFSET = 10
HOSTS_MAX = 200


class HostNetwork:
    """A subnet of this test run: 10.99.N.0/24."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.number = self._claim_number()
        self._guest_bridge = f"cvtg{self.number}"
        for bridge in (self._bridge, self._guest_bridge):
            workspace.note_link(bridge)
        run_command(["ip", "link", "add", self._guest_bridge, "type", "bridge"])
        run_command(["ip", "address", "add", f"{self.address}/24", "dev", self._bridge])
        for bridge in (self._bridge, self._guest_bridge):
            run_command(["ip", "link", "set", bridge, "up"])

    @property
    def address(self) -> str:
        """The address of the test's process as its hosts see it: let the engine listen here."""
        return f"10.99.{self.number}.1"

    def another_address(self, number: int) -> str:
        """Give the test's process a further address (2 to 9) at which its hosts reach it."""
        if not 1 < number < HOST_ADDRESS_OFFSET:
            message = f"further addresses are 2 to {HOST_ADDRESS_OFFSET - 1}, not {number}"
            raise HarnessError(message)
        address = f"10.99.{self.number}.{number}"
        run_command(["ip", "address", "replace", f"{address}/24", "dev", self._bridge])
        return address

    @property
    def _bridge(self) -> str:
        return f"cvtm{self.number}"

    def _claim_number(self) -> int:
        """Take a subnet: a bridge of that name can be made once, which settles it between runs."""
        numbers = list(range(SUBNET_FIRST, SUBNET_LAST))
        secrets.SystemRandom().shuffle(numbers)
        for number in numbers:
            command = ["ip", "link", "add", f"cvtm{number}", "type", "bridge"]
            if run_command(command, check=False).returncode == 0:
                return number
        raise HarnessError("no bridge could be made: are we root, and are all subnets in use?")

    def host_address(self, host_number: int) -> str:
        """The address of one host (1, 2, ...) in the manager's network."""
        if not 1 <= host_number <= HOSTS_MAX:
            message = f"host numbers are 1 to {HOSTS_MAX}, not {host_number}"
            raise HarnessError(message)
        return f"10.99.{self.number}.{HOST_ADDRESS_OFFSET + host_number}"

    def plug_in(self, host_number: int, pid: int) -> None:
        """Give the network namespace of that process eth0 (manager) and eth1 (guests)."""
        self.unplug(host_number)
        for kind, bridge, inner in (
            ("m", self._bridge, "eth0"),
            ("g", self._guest_bridge, "eth1"),
        ):
            outer = self._cable(kind, host_number)
            self._workspace.note_link(outer)
            peer = ["peer", "name", inner, "netns", str(pid)]
            run_command(["ip", "link", "add", outer, "type", "veth", *peer])
            run_command(["ip", "link", "set", outer, "master", bridge, "up"])

    def unplug(self, host_number: int) -> None:
        """Remove a host's cables, whether or not there are any."""
        for kind in "mg":
            outer = self._cable(kind, host_number)
            run_command(["ip", "link", "delete", outer], check=False)
            self._workspace.forget_link(outer)

    def set_reachable(self, host_number: int, *, reachable: bool) -> None:
        """Cut a host off from the manager's network, or join it again; packets vanish silently."""
        state = "up" if reachable else "down"
        run_command(["ip", "link", "set", self._cable("m", host_number), state])

    def _cable(self, kind: str, host_number: int) -> str:
        return f"cvt{kind}{self.number}h{host_number}"

    def close(self) -> None:
        """Remove the bridges."""
        for bridge in (self._bridge, self._guest_bridge):
            run_command(["ip", "link", "delete", bridge], check=False)
            self._workspace.forget_link(bridge)
