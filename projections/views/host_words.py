"""The words that tell why a host is as it is, and what happens next."""

from __future__ import annotations

import datetime as dt

import msgspec

from projections.views import host_power
from projections.views.host_document import Duty, HostDocument, HostStatus
from projections.views.parts import spoken

_EXPLANATIONS: dict[HostStatus, tuple[str, str]] = {
    HostStatus.INSTALLING: (
        "It was added, and its machine has not asked to join yet.",
        (
            "Run 'host install {name}'; or get a token with 'host token {name}' and run"
            " 'chronovisor agent join' on the machine."
        ),
    ),
    HostStatus.INSTALL_FAILED: (
        "Its agent could not be installed over SSH: {failed}",
        "Put that right, and run 'host install {name}' again.",
    ),
    HostStatus.PENDING_APPROVAL: (
        "A machine asks to join as this host, with key {key}.",
        "Compare the key with the one that the machine shows, then run 'host approve {name}'.",
    ),
    HostStatus.UNASSIGNED: (
        "It may join, and its agent has not said hello yet.",
        "It is up as soon as its agent says hello.",
    ),
    HostStatus.UP: ("", ""),
    HostStatus.NON_RESPONSIVE: (
        "Nothing is heard of it; the last contact was at {last_contact}.",
        (
            "Its VMs are unknown until it answers. Once its machine is proved off (by its power"
            " management, or by 'host confirm-off {name}' if you have seen that it is), those that"
            " are highly available start elsewhere by themselves, and the others can be started."
        ),
    ),
    HostStatus.KDUMPING: (
        "Nothing is heard of it, and its kernel says that it crashed and writes its dump.",
        (
            "Its VMs are unknown meanwhile. Once it has written the dump it boots and answers, or"
            " is fenced; 'host confirm-off {name}', if you have seen that it is off, does not wait."
        ),
    ),
    HostStatus.DOWN: ("It is known to be off.", "It is up again once its agent says hello."),
    HostStatus.REBOOT: (
        "Its machine was turned on at {turned_on}, and boots.",
        "It is up again once its agent says hello.",
    ),
    HostStatus.NON_OPERATIONAL: (
        "It is not fit for its cluster: {unfit}",
        (
            "It takes no VMs, and those that can migrate leave it. It is up again by itself once it"
            " reports that it is fit."
        ),
    ),
    HostStatus.ERROR: (
        "Two machines claim to be this host, and both are refused.",
        "Stop one of the two machines, then run 'host approve {name}'.",
    ),
    HostStatus.PREPARING_FOR_MAINTENANCE: (
        "Maintenance was asked for{because}; it takes no new VMs.",
        (
            "Its VMs leave it, by priority; it is in maintenance once the last one has."
            " 'host activate {name}' calls it off."
        ),
    ),
    HostStatus.MAINTENANCE: (
        "It is in maintenance{because}.",
        "It takes VMs again after 'host activate {name}'.",
    ),
}

_SWITCHED = frozenset({HostStatus.DOWN, HostStatus.REBOOT})
_SILENT = frozenset({HostStatus.NON_RESPONSIVE, HostStatus.KDUMPING, *_SWITCHED})
"""Their words say already that nothing is heard of the host."""

_UNCONFIRMED = (
    "It has not reported since Chronovisor was restored from a backup: what it runs is not known.",
    (
        "It gets no orders until it reports. If its machine is off, run 'host confirm-off {name}';"
        " if you have seen that it runs nothing that was started after the backup,"
        " 'host confirm-state {name}'."
    ),
)


_OVERDUE = (
    " Its machine was turned on at {turned_on}, and has not said hello since.",
    "Look at its console. 'host power restart {name}' turns it off and on again.",
)


_FAILING = (
    "Several VMs in a row could not be started on it; their operations tell why.",
    "It gets VMs again after a while (30 minutes by default), or after 'host activate {name}'.",
)


def explained(document: HostDocument) -> HostDocument:
    """Return the host with the words that tell why it is as it is and what happens next."""
    reason, what_next = _EXPLANATIONS[document.status]
    power = document.power
    words = {
        "name": document.name,
        "key": document.key_fingerprint or "",
        "last_contact": _spoken_time(document.last_contact),
        "turned_on": _spoken_time(power.turned_on_at),
        "because": f" ({document.maintenance_reason})" if document.maintenance_reason else "",
        "failed": document.ssh.failed,
        "unfit": " ".join(each.reason for each in document.unfit),
    }
    reason, what_next = reason.format(**words), what_next.format(**words)
    if document.status is HostStatus.ERROR and not document.duplicate:
        reason, what_next = (text.format(**words) for text in _FAILING)
    if document.ssh.installing:
        reason = f"Its machine is worked on over SSH ({document.ssh.task}): {document.ssh.text}"
        what_next = "The operation shows each step, and can be cancelled."
    elif document.unconfirmed and document.status is HostStatus.NON_RESPONSIVE:
        reason, what_next = (text.format(**words) for text in _UNCONFIRMED)
    elif document.silent and document.status not in _SILENT:
        reason += f" It does not answer either, while it is {spoken(document.status)}."
    if power.boot_overdue:
        reason += _OVERDUE[0].format(**words)
        what_next = _OVERDUE[1].format(**words)
    elif document.status is HostStatus.NON_RESPONSIVE and power.enabled:
        what_next += host_power.NOT_YET_FENCED
    if document.confirmed_off and power.turned_on_at is None:
        reason += " An admin confirmed that its machine is off."
    if document.status in _SWITCHED:
        reason, what_next = _switched(document, reason, what_next)
    for operation in document.operations:
        if operation.remedy:
            what_next = f"{operation.reason} {operation.remedy}"
        elif operation.kind == "host.fence" and not power.fenced_off:
            what_next = f"{operation.detail} {host_power.BEING_FENCED}".lstrip()
    return msgspec.structs.replace(document, status_reason=reason, next=what_next)


def _switched(document: HostDocument, reason: str, what_next: str) -> tuple[str, str]:
    """Return the words of a host that is off, or boots: who says so, and what comes after."""
    if document.status is HostStatus.DOWN and document.power.fenced_off:
        reason += " Its machine was turned off by power management, and is verified to be off."
    if document.status is HostStatus.DOWN and document.power.enabled:
        what_next = f"Turn it on with 'host power start {document.name}'. {what_next}"
    if document.duty is Duty.ACTIVE:
        return reason, what_next
    because = f" ({document.maintenance_reason})" if document.maintenance_reason else ""
    reason += f" Maintenance was asked for{because}."
    what_next = f"{what_next} It takes VMs again after 'host activate {document.name}'."
    return reason, what_next.replace("It is up again once", "It comes back to maintenance once")


def _spoken_time(time: dt.datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time is not None else "unknown"
