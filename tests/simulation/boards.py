"""Management boards of the hosts, which may lie, fail and dawdle; and what must hold of fencing.

A board is asked by a proxy's agent. What it does to its machine is the machine's truth; what it
says of it may be something else. A proof that rests on a lie can come only where nothing reaches
the host (contract D: such a board is believed); where the host can be reached, none may come.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
from typing import TYPE_CHECKING

from commands.host.add_fence_agent import AddFenceAgent
from commands.host.configure_power import ConfigurePower
from commands.state.host import HOST, Duty, HostState
from events.codec import CODEC
from events.types.host import HostSessionStarted
from events.types.host_power import FenceAction, FenceAgent, HostFencedOff, PowerState
from hostagent.power import Told
from tests.simulation.patches import EPOCH

if TYPE_CHECKING:
    from tests.simulation.machine import SimulatedHost
    from tests.simulation.world import World

KIND = "simulated"
BOARD_S = 2.0
"""What a board takes for anything."""
LATE_S = (20.0, 100.0, 300.0)
BACK_S_MAX = 120.0
"""A host that has said hello is left alone after so long: an order may be under way till then."""


class Lie(enum.StrEnum):
    """What is wrong with a board."""

    NONE = "none"
    SAYS_OFF = "says off, and does nothing"
    PRETENDS = "says what it was told to do, and does nothing"
    SAYS_ON = "says on, whatever it did"
    IDLE = "takes orders, and does nothing"
    LATE = "switches late"
    SILENT = "does not answer"
    LOSES_ANSWERS = "does it, and its answer is lost"
    FLICKERS = "says one time this, another time that"


class Boards:
    """The boards of all hosts, by their addresses: the host's name, a slash, the board's name.

    A host with several boards in one turn has as many power supplies: it is off once all are.
    `firewalled`: hosts let nobody in, so that no proxy can see whether one still answers.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.lies: dict[str, Lie] = {}
        self.turned_off: list[str] = []
        self.believed: list[str] = []
        self.firewalled = False
        self._off: set[str] = set()
        self._pretended: dict[str, PowerState] = {}
        self._lied: set[str] = set()
        self._unreached: set[str] = set()
        self._seen, self._judges = 0, True
        self._states: dict[str, HostState] = {}
        self._back: dict[str, dt.datetime] = {}

    # ------------------------------------------------------------------ set-up

    async def attach(self, host: SimulatedHost, turns: tuple[int, ...] = (1,)) -> None:
        """Give a host boards, each with its turn."""
        for number, turn in enumerate(turns, 1):
            name = f"board{number}"
            address = f"{host.name}.{name}"
            self.lies[address] = Lie.NONE
            await self._world.do(
                AddFenceAgent(id=host.id, agent=name, type=KIND, address=address, order=turn)
            )
        await self._world.do(ConfigurePower(id=host.id, enabled=True))

    def of(self, host: SimulatedHost) -> list[str]:
        """Return the addresses of a host's boards."""
        return sorted(address for address in self.lies if address.startswith(f"{host.name}."))

    def lie(self, host: SimulatedHost, lie: Lie) -> None:
        """Have all boards of a host lie so."""
        for address in self.of(host):
            self.lies[address] = lie

    def mend(self) -> None:
        """Have all boards work, and give power."""
        self.lies = dict.fromkeys(self.lies, Lie.NONE)
        self._off.clear()
        self._pretended.clear()

    def power_is_back(self, host: SimulatedHost) -> None:
        """Take note that a machine was turned on by other means."""
        self._off -= set(self.of(host))

    # ------------------------------------------------------------------ Power

    def installed(self) -> tuple[str, ...]:
        """See `Power.installed`."""
        return (KIND,)

    async def run(self, agent: FenceAgent, action: FenceAction, timeout_s: float) -> Told:
        """See `Power.run`."""
        address = agent.address
        host, lie = self._host(address), self.lies[address]
        if action is FenceAction.OFF:
            self._is_needed(host)
        if lie is Lie.SILENT or host.unplugged:
            await asyncio.sleep(timeout_s)
            return Told(succeeded=False, detail=f"no answer within {timeout_s:.0f} s")
        await asyncio.sleep(BOARD_S)
        if action is FenceAction.STATUS:
            return self._status(host, address, lie)
        if lie is Lie.LATE:
            self._world.begin(self._switch_late(host, address, action))
        elif lie is Lie.PRETENDS:
            self._pretended[address] = PowerState(action.value)
        elif lie not in {Lie.IDLE, Lie.SAYS_OFF}:
            self._switch(host, address, action)
        if lie is Lie.LOSES_ANSWERS:
            await asyncio.sleep(max(0.0, timeout_s - BOARD_S))
            return Told(succeeded=False, detail=f"no answer within {timeout_s:.0f} s")
        return Told(succeeded=True)

    async def answers(self, address: str, timeout_s: float) -> bool:
        """See `Power.answers`: the kernel refuses for an agent that is dead, or stands still."""
        await asyncio.sleep(min(timeout_s, 1.0))
        host = self._at(address)
        if host is None or not host.powered or self.firewalled:
            return False
        (self._unreached.add if host.isolated else self._unreached.discard)(host.id)
        return not host.isolated

    def _status(self, host: SimulatedHost, address: str, lie: Lie) -> Told:
        state = PowerState.ON if self._is_on(host, address) else PowerState.OFF
        if lie is Lie.SAYS_ON:
            state = PowerState.ON
        elif lie is Lie.SAYS_OFF:
            state = PowerState.OFF
        elif lie is Lie.PRETENDS:
            state = self._pretended.get(address, state)
        elif lie is Lie.FLICKERS:
            state = self._world.dice.choice([PowerState.ON, PowerState.OFF])
        if state is PowerState.OFF and host.powered:
            self._lied.add(host.id)
        return Told(succeeded=True, state=state)

    # ------------------------------------------------------------------ what boards do

    def _is_on(self, host: SimulatedHost, address: str) -> bool:
        """Tell what a board knows: one of several knows its own supply, one alone the machine."""
        if len(self._together(host)) > 1:
            return address not in self._off
        return host.powered

    def _together(self, host: SimulatedHost) -> list[str]:
        state = self._state(host)
        turns = {agent.address: agent.order for agent in state.power.agents}
        return sorted(turns) if len(set(turns.values())) == 1 else sorted(turns)[:1]

    def _switch(self, host: SimulatedHost, address: str, action: FenceAction) -> None:
        together = self._together(host)
        supplies = set(together) if len(together) > 1 else {address}
        if action is FenceAction.OFF:
            self._off.add(address)
            if supplies <= self._off and host.powered:
                self.turned_off.append(host.name)
                self._world.note(f"{host.name} is turned off")
                host.lose_power()
                self._lied.discard(host.id)
        elif action is FenceAction.ON:
            self._off.discard(address)
            if not host.powered and not host.unplugged:
                self._world.note(f"{host.name} is turned on")
                host.boot()

    async def _switch_late(self, host: SimulatedHost, address: str, action: FenceAction) -> None:
        await asyncio.sleep(self._world.dice.choice(LATE_S))
        self._switch(host, address, action)

    # ------------------------------------------------------------------ what must hold

    def look(self) -> None:
        """Look at what was recorded: a proof that rests on a lie makes copies that are not known.

        To be called before anything is judged by the log.
        """
        for stored in self._world.log._events[self._seen :]:
            self._seen = stored.position
            if not stored.stream.startswith("host/"):
                continue
            recorded = CODEC.decode(stored)
            after = HOST.evolve(self._states.get(recorded.object_id), recorded)
            if after is not None:
                self._states[recorded.object_id] = after
            if isinstance(recorded.event, HostSessionStarted):
                self._back[recorded.object_id] = recorded.time
            elif isinstance(recorded.event, HostFencedOff) and self._judges:
                self._proved(self._world.hosts[recorded.object_id])

    def begin_anew(self) -> None:
        """Take note that the log is another one; what it says of former times was judged then."""
        self._seen, self._judges = 0, False
        self._states.clear()
        self._back.clear()
        self.look()
        self._judges = True

    def _proved(self, host: SimulatedHost) -> None:
        if not host.powered or host.id not in self._lied:
            return
        self._lied.discard(host.id)
        self.believed.append(host.name)
        self._world.note(f"a board lied, and {host.name} is taken to be off")
        if host.id not in self._unreached:
            self._world.break_promise(f"{host.name} is taken to be off, though it can be reached")
        self._world.copies.vouched(host)

    def _is_needed(self, host: SimulatedHost) -> None:
        """Check that a host which is about to be turned off is, or was just now, silent.

        In maintenance, where nothing runs, it may be turned off to test its power.
        """
        state = self._state(host)
        if state.silent or not host.powered or state.duty is Duty.MAINTENANCE:
            return
        back = self._back.get(host.id, EPOCH)
        now = EPOCH + dt.timedelta(seconds=self._world.loop.time())
        if (now - back).total_seconds() > BACK_S_MAX:
            self._world.break_promise(f"{host.name} is turned off though it answers since {back}")

    def _state(self, host: SimulatedHost) -> HostState:
        self.look()
        return self._states[host.id]

    def _host(self, address: str) -> SimulatedHost:
        name = address.partition(".")[0]
        return next(host for host in self._world.hosts.values() if host.name == name)

    def _at(self, address: str) -> SimulatedHost | None:
        self.look()
        for state in self._states.values():
            abilities = state.capabilities
            if abilities is not None and abilities.migration_address == address:
                return self._world.hosts[state.id]
        return None
