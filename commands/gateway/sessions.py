"""Hello: an agent opens a session, which ends the host's earlier one."""

from __future__ import annotations

import hashlib

from commands.kernel.command import Context, Decision, on
from commands.kernel.fold import World
from commands.kernel.refusal import Refusal
from commands.state import fitness
from commands.state.cluster import CLUSTER
from commands.state.host import HOST, HostState, HostStatus
from events.types.base import Event
from events.types.host import (
    HostCapabilitiesReported,
    HostCertificateTakenUp,
    HostDuplicateRefused,
    HostSessionStarted,
)
from events.types.host_refresh import HostRefreshed
from events.wire.agent import PROTOCOL, Hello

PROTOCOLS = frozenset({PROTOCOL, PROTOCOL - 1})


class NotYourHost(Refusal):
    """The certificate does not belong to a host that may speak."""

    status = 403


class ClonedIdentity(Refusal):
    """Two machines use this host's identity."""

    status = 403


class UnknownProtocol(Refusal):
    """The agent speaks no protocol that this engine knows."""

    status = 409


class SessionOver(Refusal):
    """The session is not the host's newest."""

    status = 409


def require_speaker(world: World, host_id: str, fingerprint: str) -> HostState:
    """Return the host of a certificate; raises NotYourHost where it counts no (more)."""
    state = world.get(HOST, host_id)
    if state is None or state.removed or not state.approved:
        raise NotYourHost(
            "The host is not known here, was removed, or is not approved.",
            remedy="Ask an admin; a removed host joins again with a new token.",
        )
    if not state.counts(fingerprint):
        raise NotYourHost(
            "The certificate is not the host's newest.",
            remedy="Renew it with the host's own key, or join again with a new token.",
        )
    return state


def decide_taken_up(world: World, context: Context, host_id: str, fingerprint: str) -> Decision:
    """Note that a host uses its renewed certificate, which ends the one before it."""
    del context
    state = require_speaker(world, host_id, fingerprint)
    return Decision(id=host_id, events=on(HOST.stream(host_id), *taken_up(state, fingerprint)))


def taken_up(state: HostState, fingerprint: str) -> tuple[Event, ...]:
    """Return what follows from a host's having shown a certificate."""
    if state.renewed is None or state.renewed.fingerprint != fingerprint:
        return ()
    return (HostCertificateTakenUp(name=state.name, fingerprint=fingerprint),)


def decide_hello(
    world: World, context: Context, host_id: str, fingerprint: str, hello: Hello
) -> Decision:
    """Open a session, or record that two machines share an identity (`extra["cloned"]`).

    A boot id that alternates with a former one (A, B, A), or another machine's hardware, is a
    clone: neither is heard from then on, until an admin approves the host again. But a hello of
    another boot than the last may also have been under way since before a reboot, at an engine that
    stood still. So it has to be said again, with a word that only who speaks now can know
    (`Hello.doubt`): neither does it prove a clone, nor is it taken for the newest boot, before.
    """
    state = require_speaker(world, host_id, fingerprint)
    protocols = PROTOCOLS & set(hello.protocols)
    if not protocols:
        raise UnknownProtocol(
            f"The agent speaks {sorted(hello.protocols)}, the engine {sorted(PROTOCOLS)}.",
            remedy="Upgrade the agent to the engine's release or the one before.",
        )
    if state.duplicate:
        return Decision(id=host_id, extra={"cloned": True})
    other_machine = _is_other_machine(state, hello)
    if state.boot not in {None, hello.boot} and not other_machine:
        require_spoken_now(state, hello)
    if hello.boot in state.former_boots or other_machine:
        boots = tuple(boot for boot in (state.boot, hello.boot) if boot is not None)
        refused = HostDuplicateRefused(name=state.name, boots=boots)
        return Decision(
            id=host_id, events=on(HOST.stream(host_id), refused), extra={"cloned": True}
        )
    events: list[Event] = [
        *taken_up(state, fingerprint),
        HostSessionStarted(
            name=state.name,
            session=context.ids[0],
            boot=hello.boot,
            protocol=max(protocols),
            returned=state.silent or state.boot not in {None, hello.boot},
        ),
    ]
    if not state.has_reported(hello.capabilities):
        events.append(HostCapabilitiesReported(capabilities=hello.capabilities))
    cluster = world.get(CLUSTER, state.cluster)
    events += [HostRefreshed(name=state.name)] if state.refresh else []
    news = fitness.found(state, cluster, hello.capabilities) if cluster is not None else None
    events += [news] if news is not None else []
    return Decision(
        id=host_id,
        events=on(HOST.stream(host_id), *events),
        extra={"session": context.ids[0], "protocol": max(protocols)},
    )


def require_spoken_now(state: HostState, hello: Hello) -> None:
    """Raise SessionOver, with the word to give back, unless the hello gives it back already."""
    doubt = hashlib.sha256(f"doubt of {state.session}".encode()).hexdigest()[:32]
    if hello.doubt is not None and hello.doubt != doubt:
        raise SessionOver(
            "It last said hello after another boot.", remedy="Say hello again.", doubt=doubt
        )


def require_session(state: HostState, session: str) -> None:
    """Raise SessionOver where another session of the host has begun, or it was proved a clone.

    A host that was held to be silent must say hello: only that tells everybody that it is back.
    """
    if state.duplicate:
        raise ClonedIdentity("Two machines use this host's identity.", remedy="Ask an admin.")
    if state.session != session or state.status is HostStatus.REMOVED:
        raise SessionOver("A newer session of this host has begun.", remedy="Say hello again.")
    if state.refresh:
        raise SessionOver("The host is to say anew what it can do.", remedy="Say hello again.")
    if state.silent or state.proved_off:
        raise SessionOver("Nothing was heard of this host for too long.", remedy="Say hello again.")


def _is_other_machine(state: HostState, hello: Hello) -> bool:
    return state.identity is not None and state.identity.hardware != hello.hardware
