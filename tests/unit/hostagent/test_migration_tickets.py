"""What a migration's ticket opens: each channel once, and once more where post-copy goes on."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from events.types.job import Sending
from events.wire.agent import IntentVm, Receiving, Role
from hostagent.driver import RefusedMessageError
from hostagent.migration_line import OK, Opening, Receiver, Streams
from tests.harness.memory_line import MemoryNetwork
from tests.unit.hostagent.samples import VM, a_spec

TICKET = "a-ticket"
DIGEST = hashlib.sha256(TICKET.encode()).hexdigest()
MEMORY, RECOVER = "memory", "recover"


class Taking:
    """A destination's receiver whose channels stay open until the other side closes them."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.open: list[str] = []
        self.refused: list[str] = []
        self._writers: list[asyncio.StreamWriter] = []
        self.receiver = Receiver(
            frozenset({MEMORY, RECOVER}),
            MEMORY,
            RECOVER,
            expected=self._expected,
            prepare=self._nothing,
            take_in=self._take_in,
            landed=self._nothing,
        )
        self.network.serve("destination", self._accept)

    def _expected(self, digest: str) -> IntentVm | None:
        if digest != DIGEST:
            return None
        receiving = Receiving(migration="m", source="source", ticket_sha256=digest)
        return IntentVm(
            vm=VM,
            incarnation=1,
            role=Role.INCOMING,
            position=1,
            spec=a_spec(),
            receiving=receiving,
        )

    async def _nothing(self, _item: IntentVm) -> None:
        pass

    async def _take_in(self, channel: str, _item: IntentVm, streams: Streams) -> None:
        self.open.append(channel)
        try:
            streams[1].write(OK)
            if channel != RECOVER:
                await streams[0].read()
        finally:
            self.open.remove(channel)

    async def _accept(self, source: str, streams: Streams) -> None:
        try:
            await self.receiver.accept(source, streams)
        except RefusedMessageError as error:
            self.refused.append(str(error))
            raise

    async def connect(self, channel: str, source: str = "source") -> Streams | None:
        """Return a connection of a channel, None if it was refused."""
        order = Sending(destination="destination", address="")
        reader, writer = self.network.connect(source, order)
        self._writers.append(writer)
        writer.write(msgspec.json.encode(Opening(ticket=TICKET, channel=channel)) + b"\n")
        try:
            assert await reader.readuntil(b"\n") == OK
        except asyncio.IncompleteReadError:
            return None
        return reader, writer

    async def close(self) -> None:
        """Close every connection, and wait until nobody is served any more."""
        for writer in self._writers:
            writer.close()
        while self.open:
            await asyncio.sleep(0)


@pytest.fixture
async def taking() -> AsyncIterator[Taking]:
    taking = Taking()
    yield taking
    await taking.close()


async def test_a_channel_opens_once(taking: Taking) -> None:
    assert await taking.connect(MEMORY) is not None
    assert await taking.connect(MEMORY) is None
    assert "used already" in taking.refused[0]


async def test_who_goes_on_with_post_copy_ends_what_was_and_opens_each_channel_once_more(
    taking: Taking,
) -> None:
    before = await taking.connect(MEMORY)
    assert before is not None

    assert await taking.connect(RECOVER) is not None

    assert await before[0].read() == b"", "the line that was is closed"
    assert taking.open == []
    assert await taking.connect(MEMORY) is not None
    assert await taking.connect(MEMORY) is None
    assert await taking.connect(RECOVER) is not None, "the line may break again"
    assert await taking.connect(MEMORY) is not None


async def test_nobody_else_ends_a_line(taking: Taking) -> None:
    assert await taking.connect(MEMORY) is not None

    assert await taking.connect(RECOVER, source="another") is None

    assert taking.open == [MEMORY]
