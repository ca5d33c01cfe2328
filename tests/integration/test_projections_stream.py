"""The stream of changes over a real server: nothing is missed, wherever a client comes back in."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from events.log.migrate import migrate
from events.log.reader import PostgresLogReader
from events.stream.direct import DirectStream
from events.types import vm as vm_events
from projections.projector import Projector, ProjectorStatus
from projections.reads import stream as streams
from projections.reads.routes import ReadApi
from tests.harness.postgres import Database
from tests.integration.test_projections_projector import running, until
from tests.integration.test_projections_reads import Site, authenticate
from tests.unit.projections.history import History

pytestmark = pytest.mark.integration

TIMEOUT_S = 20.0
Message = dict[str, Any]


@pytest.fixture
async def site(database: Database) -> AsyncIterator[Site]:
    migrate(database.url)
    async with contextlib.AsyncExitStack() as stack:
        log = await stack.enter_async_context(
            PostgresLogReader.open(database.url, poll_interval_s=0.02)
        )
        projector = Projector(DirectStream(log), database.url)
        await stack.enter_async_context(running(projector))
        api = ReadApi(dsn=database.url, log=log, authenticate=authenticate, time_scale=0.02)
        await stack.enter_async_context(api.open())
        listener = socket.create_server(("127.0.0.1", 0))
        configuration = uvicorn.Config(
            Starlette(routes=api.routes()),
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(configuration)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=TIMEOUT_S
            )
        )

        async def following() -> bool:
            return (await projector.health()).status is ProjectorStatus.FOLLOWING

        await until(following, "the projector")
        yield Site(database.url, History(), client, projector)
        await client.aclose()
        server.should_exit = True
        await serving


@contextlib.asynccontextmanager
async def follow(
    site: Site, last: int | None = None, **parameters: str
) -> AsyncIterator[AsyncIterator[Message]]:
    headers = {"Last-Event-ID": str(last)} if last is not None else {}
    async with site.client.stream(
        "GET", "/v1/stream", params=parameters, headers=headers
    ) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield messages(answer)


async def messages(answer: httpx.Response) -> AsyncIterator[Message]:
    """The messages as a browser's EventSource would give them."""
    message: Message = {}
    async for line in answer.aiter_lines():
        if not line and "data" in message:
            yield message
        if not line:
            message = {}
            continue
        name, _, value = line.partition(": ")
        message[name] = json.loads(value) if name in {"data", "id"} else value


async def take(found: AsyncIterator[Message], position: int) -> list[Message]:
    """All messages up to and with the one whose id is that position."""
    taken: list[Message] = []
    async with asyncio.timeout(TIMEOUT_S):
        async for message in found:
            taken.append(message)
            if message.get("id", 0) >= position:
                return taken
    raise AssertionError(f"the stream ended before {position}: {taken}")


def told(taken: list[Message], kind: str) -> list[str]:
    return [m["data"]["name"] for m in taken if m["event"] == kind]


async def test_tells_what_changes(site: Site) -> None:
    history = site.history
    async with follow(site) as found:
        await take(found, 0)
        center = history.make_data_center("Berlin")
        where = history.make_cluster(center, "main")
        vm_id = history.make_vm(center, where, "web01")
        taken = await take(found, site.write())
        assert told(taken, "data_center")[-1] == "Berlin"
        assert told(taken, "cluster")[-1] == "main"
        assert told(taken, "vm") == ["web01"]
        assert told(taken, "event") == ["USER_ADD_STORAGE_POOL", "USER_ADD_CLUSTER", "USER_ADD_VM"]
        history.add(f"vm/{vm_id}", vm_events.VmRemoved(name="web01", cluster=where))
        taken = await take(found, site.write())
        assert {"kind": "vm", "id": vm_id} in [m["data"] for m in taken if m["event"] == "removed"]


async def test_tells_only_the_kinds_asked_for(site: Site) -> None:
    history = site.history
    center = history.make_data_center()
    where = history.make_cluster(center)
    await site.settle()
    async with follow(site, kinds="host,cluster") as found:
        history.make_vm(center, where)
        history.make_host(center, where)
        taken = await take(found, site.write())
    assert {m["event"] for m in taken} <= {"host", "cluster", "position"}
    assert told(taken, "host")


async def test_begins_where_a_list_was_read(site: Site) -> None:
    center = site.history.make_data_center()
    where = site.history.make_cluster(center)
    site.history.make_vm(center, where, "before")
    await site.settle()
    answer = await site.get("/v1/vms")
    site.history.make_vm(center, where, "between")
    await site.settle()
    async with follow(site, kinds="vm", after=answer.headers["chronovisor-position"]) as found:
        site.history.make_vm(center, where, "afterwards")
        taken = await take(found, site.write())
    assert told(taken, "vm") == ["between", "afterwards"]


async def test_resumes_after_the_last_message_without_a_gap(site: Site) -> None:
    """A client that comes and goes sees the last state of everything, and every audit record."""
    history = site.history
    center = history.make_data_center()
    where = history.make_cluster(center)
    host = history.make_host(center, where)
    vms = [history.make_vm(center, where, f"vm{n}") for n in range(40)]
    for number, vm_id in enumerate(vms):
        history.ready(vm_id, f"vm{number}")
        history.runs(vm_id, host, f"vm{number}")
    history.silence(host, "host1")
    seen: dict[str, Message] = {}
    records: list[int] = []
    last = 0
    events, history.events = history.events, []
    for first in range(0, len(events), 30):
        history.events += events[first : first + 30]
        async with follow(site, last) as found:
            taken = await take(found, site.write())
        for message in taken:
            if message["event"] == "event":
                records.append(message["data"]["position"])
            elif message["event"] == "vm":
                seen[message["data"]["id"]] = message["data"]
        last = max(message.get("id", 0) for message in taken)
    answer = await site.get("/v1/vms", limit="1000", fields="*")
    assert list(seen.values()) == [seen[one] for one in seen]
    assert {item["id"]: item for item in answer.json()["items"]} == seen
    assert {item["status"] for item in seen.values()} == {"unknown"}
    answer = await site.get("/v1/events", limit="1000", sort="position")
    assert records == [item["position"] for item in answer.json()["items"]]


async def test_an_id_comes_only_with_the_last_change_of_a_position(site: Site) -> None:
    history = site.history
    center = history.make_data_center()
    where = history.make_cluster(center)
    host = history.make_host(center, where)
    for number in range(5):
        vm_id = history.make_vm(center, where, f"vm{number}", disks=0)
        history.runs(vm_id, host, f"vm{number}")
    await site.settle()
    async with follow(site, kinds="vm,host") as found:
        await take(found, 0)
        history.silence(host, "host1")
        position = site.write()
        taken = await take(found, position)
    changed = [m for m in taken if m["event"] in {"vm", "host"}]
    assert len(changed) == 6
    assert ["id" in message for message in changed] == [False] * 5 + [True]


async def test_its_heartbeat_tells_the_position(site: Site) -> None:
    site.history.make_data_center()
    await site.settle()
    async with follow(site, kinds="vm") as found, asyncio.timeout(TIMEOUT_S):
        beats = [await anext(found) for _ in range(4)]
    assert {beat["event"] for beat in beats} == {"position"}
    assert beats[-1]["data"] == {"position": 1}


async def test_who_knows_more_than_the_log_is_told_to_begin_anew(site: Site) -> None:
    site.history.make_data_center()
    await site.settle()
    async with follow(site, 999) as found, asyncio.timeout(TIMEOUT_S):
        assert (await anext(found))["event"] == "reset"


async def test_a_client_that_does_not_keep_up_is_cut_off(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "QUEUE_BYTES_MAX", 20_000)
    monkeypatch.setattr(streams, "SEND_TIMEOUT_S", 0.5)
    history = site.history
    center = history.make_data_center()
    where = history.make_cluster(center)
    ended = False
    async with follow(site, kinds="vm,event") as found:
        await take(found, 0)
        for number in range(60):
            for _ in range(50):
                history.make_vm(center, where, f"vm{number}")
            site.write()
            await asyncio.sleep(0.01)
        with contextlib.suppress(httpx.RemoteProtocolError):
            async with asyncio.timeout(TIMEOUT_S):
                async for _ in found:
                    pass
        ended = True
    assert ended


async def test_so_many_clients_and_no_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "CLIENTS_MAX", 1)
    async with follow(site) as first:
        await anext(first)
        async with site.client.stream("GET", "/v1/stream") as answer:
            assert answer.status_code == 503
            assert json.loads(await answer.aread())["type"] == "too-many-streams"


async def test_there_is_no_head_of_it(site: Site) -> None:
    assert (await site.client.head("/v1/stream")).status_code == 405
