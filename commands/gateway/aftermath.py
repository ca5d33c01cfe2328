"""What a restore leaves in doubt, and what is therefore not asked of hosts yet.

Until all hosts of a cluster have told what they run (it is then *settled*), a VM that the log has
on one host may run on another: it may have moved there, or been started there, in what the log has
lost. So a host is not asked about a run of before that it did not mention: its answer, that it
has none, would be taken for the VM's end. And files are not removed of a VM that any host runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from commands.state.host import HostState
from commands.state.orders import is_outdated
from commands.state.vm import OpenJob, VmState
from events.envelope import Recorded
from events.types.host import HostUnmanagedDomainsFound
from events.types.job import JobKind


class Aftermath:
    """The hosts that are not confirmed, what the others run, and what waits for either.

    Strays are known to the process that hosts report to, and told anew every minute.
    """

    def __init__(self) -> None:
        self._unconfirmed: dict[str, set[str]] = defaultdict(set)
        self._strays: dict[str, frozenset[str]] = {}
        self._withheld: dict[str, str] = {}
        self._settled: set[str] = set()

    def take(self, host: HostState) -> None:
        """Take in a host as it is now."""
        waiting = self._unconfirmed.get(host.cluster)
        if host.unconfirmed and not host.removed:
            self._unconfirmed[host.cluster].add(host.id)
        elif waiting is not None:
            waiting.discard(host.id)
            if not waiting:
                del self._unconfirmed[host.cluster]
                self._settled.add(host.cluster)

    def note_strays(self, host: str, vms: Iterable[str]) -> None:
        """Note the VMs that a host, by its full state, runs and nobody may touch."""
        self._strays[host] = frozenset(vms)

    def waits_for(self, host: str) -> bool:
        """Tell whether a host has not told yet what it runs."""
        return any(host in hosts for hosts in self._unconfirmed.values())

    def released(self, recorded: Recorded) -> list[str]:
        """Return the VMs of which nothing is withheld any more, or that must be looked at again."""
        settled, self._settled = self._settled, set()
        again = isinstance(recorded.event, HostUnmanagedDomainsFound)
        vms = [vm for vm, cluster in self._withheld.items() if again or cluster in settled]
        for vm in vms:
            del self._withheld[vm]
        return vms

    def in_doubt(self, vm: VmState, host: HostState) -> bool:
        """Tell whether a host may not be asked about a VM's run yet."""
        run = vm.run
        if run is None or run.position > host.restored or vm.cluster not in self._unconfirmed:
            return False
        if run.stopping or run.withdrawn or vm.id not in self._expected_of(vm, host):
            return False
        self._withheld[vm.id] = vm.cluster
        return True

    @staticmethod
    def _expected_of(vm: VmState, host: HostState) -> tuple[str, ...]:
        """Return the VMs that a host has nothing to say about, a migration's destination all."""
        migration = vm.migration
        if migration is not None and migration.destination == host.id:
            return (vm.id,)
        return host.missing

    def may_be_done(self, vm: VmState, entry: OpenJob, restored: int) -> bool:
        """Tell whether a host may be given a job."""
        if is_outdated(entry, restored):
            return False
        if entry.job.kind is not JobKind.VOLUMES_REMOVE or vm.run is not None:
            return True
        runs = any(vm.id in vms for vms in self._strays.values())
        if restored and (runs or vm.cluster in self._unconfirmed):
            self._withheld[vm.id] = vm.cluster
            return False
        return True
