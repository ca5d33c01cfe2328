"""Words for a VM's status: why it is so, and what happens next or can be done (contract D 8)."""

from __future__ import annotations

import msgspec

from events.types.vm import DownReason, PauseReason
from projections.views.parts import spoken
from projections.views.vm_availability import unknown_words, waiting_words
from projections.views.vm_document import VmDocument, VmStatus

_DOWN: dict[DownReason, str] = {
    DownReason.GUEST: "The guest shut itself down.",
    DownReason.ADMIN: "An admin ended it.",
    DownReason.HOST_SHUTDOWN: "Its host was shut down.",
    DownReason.CRASHED: "It crashed.",
    DownReason.HOST_LOST: "Its host went off or rebooted under it.",
    DownReason.START_FAILED: "It could not be started.",
    DownReason.WITHDRAWN: "Its start was taken back.",
    DownReason.SUSPENDED: "It was suspended.",
    DownReason.MIGRATED: "It went on at another host.",
}

_PAUSED: dict[PauseReason, tuple[str, str]] = {
    PauseReason.ADMIN: ("An admin paused it.", "Resume it."),
    PauseReason.IO_ERROR: (
        "A disk reported an input/output error.",
        "Mend the storage, then resume it.",
    ),
    PauseReason.NO_SPACE: ("No space is left for a disk.", "Make space, then resume it."),
    PauseReason.PERMISSION: (
        "Access to a disk was denied.",
        "Set the permissions of the storage right, then resume it.",
    ),
    PauseReason.OTHER: ("It paused after an error.", "See the host's log, then resume it."),
}

_WORDS: dict[VmStatus, tuple[str, str]] = {
    VmStatus.IMAGE_LOCKED: (
        "Its disks are being made.",
        "It is down, and can be started, as soon as they are there.",
    ),
    VmStatus.IMAGE_ILLEGAL: (
        "Its disks could not be made: {detail}",
        "Remove it and create it again.",
    ),
    VmStatus.POWERING_UP: (
        "Host {host} runs it; the guest is booting.",
        "It is up once the guest's agent answers or the time to boot has passed.",
    ),
    VmStatus.RESTORING_STATE: (
        "Host {host} brings its saved memory back.",
        "It is up once that is done.",
    ),
    VmStatus.UP: ("", ""),
    VmStatus.REBOOT_IN_PROGRESS: (
        "The guest is being reset.",
        "It is up again as soon as its host reports the reset.",
    ),
    VmStatus.POWERING_DOWN: (
        "It was asked to end.",
        "It is down as soon as host {host} reports so.",
    ),
    VmStatus.SAVING_STATE: (
        "Its memory is being saved.",
        "It is suspended as soon as that is done.",
    ),
    VmStatus.MIGRATING: (
        "It moves from host {host} to another one, and runs meanwhile.",
        "It is up there once all of its memory is; its operation shows how far it is.",
    ),
    VmStatus.SUSPENDED: (
        "Its memory is saved on host {memory_host}.",
        "Start it to go on where it stopped.",
    ),
    VmStatus.REMOVING: (
        "It is being removed.",
        "It is gone as soon as its disks are deleted.",
    ),
}


def _words(document: VmDocument) -> tuple[str, str]:
    host = document.host.name if document.host else ""
    match document.status:
        case VmStatus.UNKNOWN:
            return (
                (
                    f"Host {host} does not answer; the VM was last known to be"
                    f" {spoken(document.last_known_status)}."
                ),
                unknown_words(document, host),
            )
        case VmStatus.DOWN:
            reason = _DOWN[document.down_reason] if document.down_reason else ""
            return f"{reason} {document.down_detail}".strip(), "Start it."
        case VmStatus.PAUSED:
            return _PAUSED[document.pause_reason or PauseReason.OTHER]
        case VmStatus.MIGRATING if document.pause_reason is not None:
            return (
                f"Its hypervisor on host {host} stopped it in the midst of a migration.",
                "It goes on by itself once its destination has nothing of it.",
            )
        case VmStatus.WAITING_FOR_LAUNCH if document.host is None:
            if document.restart is not None:
                return waiting_words(document.restart)
            return "It is to be started; a host is being chosen.", ""
        case VmStatus.WAITING_FOR_LAUNCH:
            return f"Host {host} was told to start it.", "It boots as soon as the host does so."
    reason, what_next = _WORDS[document.status]
    memory = document.saved_memory
    words = {
        "host": host,
        "detail": document.down_detail,
        "memory_host": memory.host.name if memory else "",
    }
    return reason.format(**words), what_next.format(**words)


def explained(document: VmDocument) -> VmDocument:
    """Return the VM with the words for its status; an operation that waits has the last word."""
    reason, what_next = _words(document)
    for operation in document.operations:
        if operation.remedy:
            reason = f"{reason} {operation.reason}".strip()
            what_next = operation.remedy
    return msgspec.structs.replace(document, status_reason=reason, next=what_next)
