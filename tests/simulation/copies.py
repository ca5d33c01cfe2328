"""The copies of VMs that there are on the machines themselves, and what must hold of them always.

No two of a VM at once. But where somebody vouched that a machine is off, and it was not, a second
one does come to be: then it must be found, and shown, unless it ended by itself before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from events.types.run_spec import RunSpec

if TYPE_CHECKING:
    from tests.simulation.machine import SimulatedHost
    from tests.simulation.world import World

Copy = tuple[str, int, str]
"""A VM's id, an incarnation, and the id of the host where it is."""


class Copies:
    """What the machines show. `left` are the copies on machines that were falsely said to be off;
    `doubled` are those of them beside which the VM ran elsewhere.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._restored: dict[str, tuple[str, int]] = {}
        self.left: set[Copy] = set()
        self.doubled: dict[Copy, int] = {}
        self.gone: set[Copy] = set()

    def vouched(self, host: SimulatedHost) -> None:
        """Take note that somebody vouched falsely that a host is off."""
        host.vouched = True
        self.left |= {(*key, host.id) for key in host.running()}

    def began(self, host: SimulatedHost, spec: RunSpec) -> None:
        """Check what must hold when a domain comes to be on a host."""
        self._world.look_at_proofs()
        what = f"VM {spec.name} incarnation {spec.incarnation}"
        self._world.note(f"{what} begins on {host.name}")
        if host.vouched:
            self.left.add((spec.vm, spec.incarnation, host.id))  # by an order from before
        for other in self._world.hosts.values():
            for key in sorted(other.running()):
                if other.id != host.id and key[0] == spec.vm:
                    self._twice(
                        f"{what} begins on {host.name} and is on {other.name}", host, other, key
                    )
        self._is_wanted(what, host, spec)
        if spec.restore_from in self._restored and not self._is_excused(spec.vm):
            before = self._restored[spec.restore_from]
            self._world.break_promise(f"{what} restores a memory that {before} restored")

    def executes(self, host: SimulatedHost, key: tuple[str, int]) -> None:
        """Check what must hold when a guest begins to run, or goes on."""
        self._world.look_at_proofs()
        for other in self._world.hosts.values():
            for found in sorted(other.executing()):
                if other.id != host.id and found[0] == key[0]:
                    self._twice(
                        f"VM {key} runs on {host.name} and {other.name}", host, other, found
                    )

    def ran(self, host: SimulatedHost, spec: RunSpec) -> None:
        """Take note that a guest ran: from its first instant its memory is of no more use."""
        if spec.restore_from is not None:
            self._restored[spec.restore_from] = (host.id, spec.incarnation)

    def ends_by_itself(self, host: SimulatedHost, key: tuple[str, int]) -> None:
        """Take note that a copy is about to end without anybody's order."""
        self.gone.add((*key, host.id))

    def forget_what_was_found(self) -> None:
        """Take note that the log has forgotten what it had found."""
        self.doubled.clear()

    def _twice(
        self, words: str, host: SimulatedHost, other: SimulatedHost, key: tuple[str, int]
    ) -> None:
        here = {(*one, host.id) for one in host.running() if one[0] == key[0]}
        excused = sorted(({(*key, other.id)} | here) & self.left)
        # After a restore such a copy may be the one that goes on, and move.
        moved = {copy[:2] for copy in self.left} & {key, *(copy[:2] for copy in here)}
        if not excused and not (moved and self._world.restores):
            self._world.break_promise(words)
        for copy in excused:
            self.doubled.setdefault(copy, len(self._world.log._events))
            self._world.note(f"{words}: {copy} was falsely said to be off")

    def _is_excused(self, vm: str) -> bool:
        return any(copy[0] == vm for copy in self.left)

    def _is_wanted(self, what: str, host: SimulatedHost, spec: RunSpec) -> None:
        if host.vouched or host.welcome_by != self._world.log.log_id:
            return  # What it acts on may be over, or of a log that is no more.
        vm = self._world.vms().get(spec.vm)
        run = vm.run if vm is not None else None
        if run is None or (run.host, run.incarnation) != (host.id, spec.incarnation):
            self._world.break_promise(f"{what} begins on {host.name} although that is over: {run}")
