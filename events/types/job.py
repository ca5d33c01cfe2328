"""Jobs: work that a host does once, with an outcome that can be tested on the host (contract C)."""

from __future__ import annotations

import enum

import msgspec

from events.types.migration import Tuning
from events.types.run_spec import Disk
from events.types.vm_tuning import Dedicated


class JobKind(enum.StrEnum):
    """What a job does; behind each, the post-condition by which an agent knows it as done."""

    DISK_CREATE = "disk.create"  # each volume exists with its size
    VOLUMES_REMOVE = "volumes.remove"  # none of the volumes exists
    VM_SHUTDOWN = "vm.shutdown"  # the incarnation's domain is gone
    VM_REBOOT = "vm.reboot"  # the guest was reset after the job began
    VM_SUSPEND = "vm.suspend"  # the saved memory is whole, the domain is gone
    VM_CONTINUE = "vm.continue"  # the incarnation's domain is running
    VM_MIGRATE = "vm.migrate"  # the incarnation's domain is gone, to the destination


class Sending(msgspec.Struct, frozen=True, kw_only=True):
    """Where a VM is to be sent: the destination's id, and where its agent takes VMs in.

    `ticket` lets it in there, once; it is put in on the way to the source, never into an event.
    `cancelled`: the source is to stop, if it is not too late. `tuning` says how it is to be sent.
    `released`: the destination has nothing of the VM, which is to go on if it was stopped for the
    switch-over. `dedicated` are the CPUs that are the VM's alone at the destination.
    """

    destination: str
    address: str
    ticket: str = ""
    cancelled: bool = False
    released: bool = False
    tuning: Tuning = Tuning()
    dedicated: Dedicated | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job for one host on one VM.

    `incarnation` is the run that the job is about, 0 where the VM need not run. `volumes` are
    files in the storage folder to remove, `disks` those to make, `saved_memory` the file that a
    suspend writes. `timeout_s` bounds what waits for the guest. `sending` is a migration's.
    """

    id: str
    kind: JobKind
    vm: str
    incarnation: int = 0
    generation: int = 1
    disks: tuple[Disk, ...] = ()
    volumes: tuple[str, ...] = ()
    saved_memory: str | None = None
    timeout_s: float | None = None
    sending: Sending | None = None
