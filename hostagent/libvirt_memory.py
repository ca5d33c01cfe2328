"""Saved memory: written beside its name, bound to its run and its disks, restored once."""

from __future__ import annotations

from pathlib import Path

import structlog

from events.types.run_spec import RunSpec
from events.types.vm import DownReason
from hostagent.domain_xml import Console
from hostagent.driver import DriverError, DriverEvent, Happening
from hostagent.libvirt_inventory import Inventory
from hostagent.libvirt_port import Connection, Hypervisor
from hostagent.libvirt_storage import Storage, partial_of, put_in_place
from hostagent.libvirt_watch import Watch
from hostagent.libvirt_xml import (
    UnusableMemoryError,
    noted_versions,
    restored_xml,
    saved_ownership,
    with_disk_versions,
)

log = structlog.get_logger()


class SavedMemory:
    """Saves runs into files of the storage folder, and restores them."""

    def __init__(
        self, hypervisor: Hypervisor, watch: Watch, storage: Storage, inventory: Inventory
    ) -> None:
        self._hypervisor = hypervisor
        self._watch = watch
        self._storage = storage
        self._inventory = inventory

    async def save(self, vm: str, incarnation: int, file: str) -> None:
        """Save a run that is there. Its end is told once its memory has its name."""
        target = self._storage.path(file)
        partial = partial_of(target)
        if await self._watch.work(lambda: _make_room(target, partial)):
            raise DriverError(f"{file!r} exists already and is not overwritten")
        self._watch.saving[vm] = incarnation
        try:
            await self._watch.call(
                lambda libvirt: self._hypervisor.save(libvirt, vm, str(partial)), long=True
            )
            reason, detail = DownReason.SUSPENDED, "the guest's memory is saved"
            try:
                await self._put_in_place(partial, target)
            except (DriverError, OSError) as error:
                reason, detail = DownReason.CRASHED, f"its saved memory cannot be kept: {error}"
                raise DriverError(detail) from error
            finally:
                self._watch.tell(
                    DriverEvent(
                        happening=Happening.ENDED,
                        vm=vm,
                        incarnation=incarnation,
                        reason=reason,
                        detail=detail,
                    )
                )
        finally:
            del self._watch.saving[vm]
        log.info("domain_saved", vm=vm, incarnation=incarnation)

    async def finish(
        self, file: str, vm: str | None = None, incarnation: int | None = None
    ) -> bool:
        """Give whole memory its name for a driver that did not live to do it.

        Answers whether it did. Only for the given run if one is given, and never while the run is
        still there in any form.
        """
        target = self._storage.path(file)
        partial = partial_of(target)
        if not await self._watch.work(lambda: self._storage.is_whole_memory(partial)):
            return False
        owner = saved_ownership(await self._saved_xml(partial))
        if owner is None or owner.vm in self._watch.saving:
            return False
        if vm is not None and (owner.vm, owner.incarnation) != (vm, incarnation):
            return False
        if any(domain.vm == owner.vm for domain in (await self._inventory.domains()).managed):
            return False
        await self._put_in_place(partial, target)
        log.info("save_finished_late", vm=owner.vm, incarnation=owner.incarnation)
        return True

    async def restore(self, spec: RunSpec, file: str, console: Console) -> None:
        """Start a run from memory that an earlier one saved; the file stays."""
        path = await self._watch.work(lambda: self._storage.existing(file))
        if not await self._watch.work(lambda: self._storage.is_whole_memory(path)):
            raise DriverError(f"{file!r} is not whole saved memory")
        volumes = [disk.volume for disk in spec.configuration.disks]
        versions = await self._watch.work(lambda: self._versions(volumes))
        try:
            xml = restored_xml(
                await self._saved_xml(path),
                spec,
                storage_folder=str(self._storage.folder),
                versions=versions,
                console=console,
            )
        except UnusableMemoryError as error:
            raise DriverError(f"the VM cannot be resumed: {error}") from error
        await self._watch.call(
            lambda libvirt: self._hypervisor.restore(libvirt, str(path), xml), long=True
        )

    async def _put_in_place(self, partial: Path, target: Path) -> None:
        xml = await self._saved_xml(partial)
        volumes = list(noted_versions(xml))
        versions = await self._watch.work(lambda: self._versions(volumes))
        noted = with_disk_versions(xml, versions)

        def define(libvirt: Connection) -> None:
            self._hypervisor.define_saved_xml(libvirt, str(partial), noted)

        await self._watch.call(define)
        await self._watch.work(lambda: put_in_place(partial, target))

    async def _saved_xml(self, path: Path) -> str:
        return await self._watch.call(
            lambda libvirt: self._hypervisor.saved_xml(libvirt, str(path))
        )

    def _versions(self, volumes: list[str]) -> dict[str, str]:
        return {name: self._storage.version(self._storage.path(name)) for name in volumes}


def _make_room(target: Path, partial: Path) -> bool:
    """Make the folder and remove an older attempt; answers whether the name is taken."""
    if target.exists() or target.is_symlink():
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)
    return False
