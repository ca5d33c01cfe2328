"""What a restore leaves in doubt, and what is therefore not asked of hosts yet.

Until all hosts of a cluster have told what they run (it is then *settled*), a VM that the log has
on one host may run on another: it may have moved there, or been started there, in what the log has
lost. So a host is not asked about a run of before that it did not mention: its answer, that it
has none, would be taken for the VM's end. And files are not removed of a VM that any host runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

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
        self._settled: set[str] = set()
        self._restored = False

    def take(self, host: HostState) -> None:
        """Take in a host as it is now."""
        self._restored |= bool(host.restored)
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

    def released(self, recorded: Recorded, vms: Mapping[str, VmState]) -> list[str]:
        """Return the VMs of which something may have been withheld that need not be any more.

        Which these were is not remembered: another process may have withheld it. Where a cluster
        is settled, which happens once after a restore, all its VMs are looked at again.
        """
        settled, self._settled = self._settled, set()
        again = self._restored and isinstance(recorded.event, HostUnmanagedDomainsFound)
        if not settled and not again:
            return []
        return [
            vm.id
            for vm in vms.values()
            if vm.cluster in settled or (again and any(_removes(entry) for entry in vm.jobs))
        ]

    def in_doubt(self, vm: VmState, host: HostState) -> bool:
        """Tell whether a host may not be asked about a VM's run yet."""
        run = vm.run
        if run is None or run.position > host.restored or vm.cluster not in self._unconfirmed:
            return False
        ending = run.stopping or run.withdrawn
        return not ending and vm.id in self._expected_of(vm, host)

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
        if not _removes(entry) or vm.run is not None:
            return True
        runs = any(vm.id in vms for vms in self._strays.values())
        return not (restored and (runs or vm.cluster in self._unconfirmed))


def _removes(entry: OpenJob) -> bool:
    return entry.job.kind is JobKind.VOLUMES_REMOVE
