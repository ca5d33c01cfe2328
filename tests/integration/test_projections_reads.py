"""The reads over a real inventory: what is answered, and what is refused, and how."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import jsonschema
import msgspec
import psycopg
import pytest
from starlette.applications import Starlette
from starlette.requests import Request

from access.principals import BOOTSTRAP_ADMIN, Principal, host_principal
from events.log.migrate import migrate
from events.log.reader import PostgresLogReader
from events.stream.direct import DirectStream
from events.types import affinity
from events.types import host as host_events
from events.types import host_hardware as hw
from events.types import vm as vm_events
from events.types.cluster import Scheduling
from events.types.mac_pool import MacPoolCreated, MacRange
from events.types.scheduling_policy import SchedulingPolicyCreated
from events.types.vm_availability import VmHighAvailabilityChanged
from projections.projector import Projector, ProjectorStatus
from projections.reads import host_parts, pages
from projections.reads.cache import DocumentCache, PageCache
from projections.reads.context import Reads
from projections.reads.openapi import openapi_components, openapi_paths
from projections.reads.pages import NEWS_MAX
from projections.reads.routes import ReadApi
from projections.views.vm_document import VmSummary
from tests.harness.postgres import Database
from tests.integration.test_projections_projector import running, until
from tests.unit.projections.history import CAPABILITIES, History, Life, write_log

pytestmark = pytest.mark.integration

PRINCIPALS = {"admin": BOOTSTRAP_ADMIN, "host": host_principal("h")}


async def authenticate(request: Request) -> Principal | None:
    return PRINCIPALS.get(request.headers.get("Authorization", "Bearer admin")[7:])


class Site:
    """A log, a projector and the read API over it, with a client."""

    def __init__(
        self, dsn: str, history: History, client: httpx.AsyncClient, projector: Projector
    ) -> None:
        self.dsn = dsn
        self.history = history
        self.client = client
        self.projector = projector
        self._written = 0

    def write(self) -> int:
        """Put what the history has new into the log; return its end."""
        write_log(self.dsn, self.history.events[self._written :])
        self._written = len(self.history.events)
        return self._written

    async def settle(self) -> None:
        position = self.write()

        async def there() -> bool:
            health = await self.projector.health()
            return health.position >= position and health.status is ProjectorStatus.FOLLOWING

        await until(there, "the projector")

    async def get(self, path: str, **parameters: Any) -> httpx.Response:
        return await self.client.get(path, params=parameters)

    async def names(self, path: str, **parameters: Any) -> list[str]:
        answer = await self.get(path, **parameters)
        assert answer.status_code == 200, answer.text
        return [item["name"] for item in answer.json()["items"]]


@contextlib.asynccontextmanager
async def site_of(database: Database) -> AsyncIterator[Site]:
    migrate(database.url)
    async with contextlib.AsyncExitStack() as stack:
        log = await stack.enter_async_context(
            PostgresLogReader.open(database.url, poll_interval_s=0.02)
        )
        projector = Projector(DirectStream(log), database.url)
        await stack.enter_async_context(running(projector))
        api = ReadApi(dsn=database.url, log=log, authenticate=authenticate)
        await stack.enter_async_context(api.open())
        transport = httpx.ASGITransport(Starlette(routes=api.routes()))
        client = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://test")
        )
        yield Site(database.url, History(), client, projector)


@pytest.fixture
async def site(database: Database) -> AsyncIterator[Site]:
    async with site_of(database) as site:
        yield site


@pytest.fixture
async def fleet(site: Site) -> Site:
    """Ten VMs in two clusters, three of them up, one paused; two hosts, one silent."""
    history = site.history
    center = history.make_data_center("Berlin")
    clusters = [history.make_cluster(center, name) for name in ("alpha", "beta")]
    hosts = [
        history.make_host(center, where, f"host{n}") for n, where in enumerate(clusters, start=1)
    ]
    for number in range(10):
        name = f"web{number:02}" if number < 7 else f"Db_{number}"
        vm_id = history.make_vm(center, clusters[number % 2], name)
        history.ready(vm_id, name)
        if number < 3:
            history.runs(vm_id, hosts[number % 2], name, f"host{number % 2 + 1}")
    history.silence(hosts[1], "host2")
    await site.settle()
    return site


@contextlib.asynccontextmanager
async def api_of(site: Site) -> AsyncIterator[tuple[httpx.AsyncClient, Reads]]:
    """Another read API over the same inventory, and what it reads with."""
    async with PostgresLogReader.open(site.dsn) as log:
        api = ReadApi(dsn=site.dsn, log=log, authenticate=authenticate)
        async with api.open():
            transport = httpx.ASGITransport(Starlette(routes=api.routes()))
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                yield client, api._reads


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """What the function of this name in `pages` returns from now on."""
    returned: list[Any] = []
    function = getattr(pages, name)

    def call(*given: Any) -> Any:
        returned.append(function(*given))
        return returned[-1]

    monkeypatch.setattr(pages, name, call)
    return returned


async def first_id(site: Site, path: str, **parameters: Any) -> str:
    answer = await site.get(path, **parameters)
    found: str = answer.json()["items"][0]["id"]
    return found


def schema_of(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}", "components": openapi_components()}


class TestOne:
    async def test_is_answered_with_position_and_etag(self, fleet: Site) -> None:
        vm_id = await first_id(fleet, "/v1/vms")
        answer = await fleet.get(f"/v1/vms/{vm_id}")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["chronovisor-position"] == str(len(fleet.history.events))
        assert answer.headers["etag"] == '"1"'
        assert answer.json()["id"] == vm_id

    async def test_has_only_the_fields_asked_for(self, fleet: Site) -> None:
        vm_id = await first_id(fleet, "/v1/vms")
        answer = await fleet.get(f"/v1/vms/{vm_id}", fields="name,status")
        assert answer.json() == {"name": "Db_7", "status": "down"}

    @pytest.mark.parametrize("given", ["nobody", "%00", "x" * 500])
    async def test_that_is_not_there_is_a_problem(self, fleet: Site, given: str) -> None:
        answer = await fleet.client.get(f"/v1/vms/{given}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["type"] == "not-found"
        assert problem["title"] == "There is no such object"
        assert problem["status"] == 404
        if given == "nobody":
            assert answer.headers["chronovisor-position"] == str(len(fleet.history.events))
        assert problem["remedy"]

    async def test_audit_record_is_found_by_its_position(self, fleet: Site) -> None:
        answer = await fleet.get("/v1/events/1")
        assert answer.json()["name"] == "USER_ADD_STORAGE_POOL"
        assert (await fleet.get("/v1/events/one")).status_code == 404
        assert (await fleet.get("/v1/events/99999999")).status_code == 404


class TestList:
    async def test_is_sorted_by_name_without_regard_to_case(self, fleet: Site) -> None:
        names = await fleet.names("/v1/vms")
        assert names == ["Db_7", "Db_8", "Db_9", *(f"web{n:02}" for n in range(7))]
        assert await fleet.names("/v1/vms", sort="-name") == names[::-1]

    @pytest.mark.parametrize(
        ("parameters", "expected"),
        [
            ({"status": "up"}, ["web00", "web02"]),
            ({"status": "up,unknown"}, ["web00", "web01", "web02"]),
            ({"name": "WEB0*"}, [f"web{n:02}" for n in range(7)]),
            ({"name": "db_*"}, ["Db_7", "Db_8", "Db_9"]),
            ({"name": "*_8"}, ["Db_8"]),
            ({"name": "web%"}, []),
            ({"name": "web03"}, ["web03"]),
            ({"search": "beta WEB"}, ["web01", "web03", "web05"]),
            ({"search": "10.0.0.7"}, ["web00", "web01", "web02"]),
            ({"search": "host1 alpha"}, ["web00", "web02"]),
            ({"search": "EB03 eb"}, ["web03"]),
            ({"search": "eb03x"}, []),
            ({"name": "web*", "status": "down", "limit": "2"}, ["web03", "web04"]),
        ],
    )
    async def test_is_narrowed(
        self, fleet: Site, parameters: dict[str, str], expected: list[str]
    ) -> None:
        assert await fleet.names("/v1/vms", **parameters) == expected

    async def test_is_narrowed_by_where_things_are(self, fleet: Site) -> None:
        alpha = await first_id(fleet, "/v1/clusters", name="alpha")
        host = await first_id(fleet, "/v1/hosts", name="host1")
        center = await first_id(fleet, "/v1/data_centers")
        assert len(await fleet.names("/v1/vms", cluster=alpha)) == 5
        assert await fleet.names("/v1/vms", host=host) == ["web00", "web02"]
        assert len(await fleet.names("/v1/vms", data_center=center)) == 10
        assert await fleet.names("/v1/hosts", cluster=alpha) == ["host1"]
        assert await fleet.names("/v1/hosts", status="non_responsive") == ["host2"]

    async def test_is_narrowed_by_whether_they_are_highly_available(self, fleet: Site) -> None:
        vm = await first_id(fleet, "/v1/vms", name="web03")
        for enabled, expected in ((True, ["web03"]), (False, [])):
            changed = VmHighAvailabilityChanged(name="web03", enabled=enabled, priority=50)
            fleet.history.add(f"vm/{vm}", changed)
            await fleet.settle()
            assert await fleet.names("/v1/vms", highly_available="true") == expected
        assert len(await fleet.names("/v1/vms", highly_available="false")) == 10

    async def test_with_fields_has_only_those(self, fleet: Site) -> None:
        answer = await fleet.get("/v1/vms", fields="name,status", limit="2")
        assert answer.json()["items"] == [
            {"name": "Db_7", "status": "down"},
            {"name": "Db_8", "status": "down"},
        ]

    async def test_by_default_has_the_fields_of_the_summary(self, fleet: Site) -> None:
        (item,) = (await fleet.get("/v1/vms", name="web00")).json()["items"]
        one = (await fleet.get(f"/v1/vms/{item['id']}")).json()
        assert item == {field: one[field] for field in VmSummary.__struct_fields__}

    async def test_with_a_star_for_fields_has_whole_documents(self, fleet: Site) -> None:
        (item,) = (await fleet.get("/v1/vms", name="web00", fields="*")).json()["items"]
        assert item == (await fleet.get(f"/v1/vms/{item['id']}")).json()

    async def test_has_fields_that_are_not_in_the_summary(self, fleet: Site) -> None:
        answer = await fleet.get("/v1/vms", name="web00", fields="name,incarnation")
        assert answer.json()["items"] == [{"name": "web00", "incarnation": 1}]

    async def test_shows_a_change_of_what_it_showed_before(self, fleet: Site) -> None:
        before = await fleet.get("/v1/vms", name="web02")
        vm_id = before.json()["items"][0]["id"]
        fleet.history.add(f"vm/{vm_id}", vm_events.VmGuestReported(incarnation=1, hostname="other"))
        await fleet.settle()
        for fields in (None, "*", "hostname,version"):
            given = {} if fields is None else {"fields": fields}
            (item,) = (await fleet.get("/v1/vms", name="web02", **given)).json()["items"]
            assert item["hostname"] == "other"

    async def test_asked_again_shows_what_came_and_went_meanwhile(self, fleet: Site) -> None:
        before = (await fleet.get("/v1/vms")).json()
        assert (await fleet.get("/v1/vms")).json() == before
        gone = await first_id(fleet, "/v1/vms", name="web06")
        fleet.history.add(f"vm/{gone}", vm_events.VmRemoved(name="web06", cluster="c"))
        await fleet.settle()
        after = (await fleet.get("/v1/vms")).json()
        assert after["items"] == [item for item in before["items"] if item["id"] != gone]
        assert after["position"] > before["position"]

    async def test_asked_again_after_something_else_changed_is_of_now(self, fleet: Site) -> None:
        before = (await fleet.get("/v1/vms", limit="3")).json()
        fleet.history.make_data_center("Paris")
        await fleet.settle()
        after = (await fleet.get("/v1/vms", limit="3")).json()
        assert after == before | {"position": before["position"] + 1}

    async def test_asked_again_after_many_changes_is_as_if_asked_for_the_first_time(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Kept pages, in which changes are exchanged, against an API that keeps nothing."""
        exchanged = counted(monkeypatch, "spliced")
        life = Life(site.history, vms=30, hosts=4)
        await site.settle()
        where = life.clusters[0]
        asked = [
            *("/v1/vms", "/v1/vms?limit=7", "/v1/vms?sort=-status_since&limit=5"),
            *("/v1/vms?fields=*", "/v1/vms?fields=name,status&sort=-created", "/v1/hosts"),
            *(f"/v1/vms?cluster={where}&limit=6&sort=-name", "/v1/vms?status=up", "/v1/clusters"),
            *("/v1/vms?sort=memory&limit=4", "/v1/events?limit=10", "/v1/operations?open=true"),
        ]
        first = (await site.client.get("/v1/vms?limit=7")).json()["next"]
        async with api_of(site) as (fresh, reads):
            for _ in range(40):
                for path in (*asked, first):
                    reads.pages, reads.cache = PageCache(), DocumentCache()
                    kept, anew = await site.client.get(path), await fresh.get(path)
                    assert kept.status_code == 200
                    assert kept.json() == anew.json(), path
                life.step()
                await site.settle()
        assert sum(page is not None for page in exchanged) > 20
        assert any(page is None for page in exchanged)

    async def test_with_more_changes_than_are_exchanged_is_of_now(self, site: Site) -> None:
        history = site.history
        center = history.make_data_center()
        where = history.make_cluster(center)
        vms = [history.make_vm(center, where, f"vm{n:03}") for n in range(NEWS_MAX + 5)]
        await site.settle()
        assert len((await site.get("/v1/vms", limit="1000")).json()["items"]) == len(vms)
        for number, vm_id in enumerate(vms):
            history.ready(vm_id, f"vm{number:03}")
        await site.settle()
        items = (await site.get("/v1/vms", limit="1000")).json()["items"]
        assert {item["status"] for item in items} == {"down"}

    async def test_of_another_inventory_is_read_anew(self, fleet: Site) -> None:
        """Where the log is another one, equal positions say nothing."""
        asked = (await fleet.get("/v1/vms", name="web00")).json()["items"]
        with psycopg.connect(fleet.dsn) as connection:
            connection.execute("UPDATE inventory.vms SET summary = '{}' WHERE name = 'web00'")
        assert (await fleet.get("/v1/vms", name="web00")).json()["items"] == asked
        with psycopg.connect(fleet.dsn) as connection:
            connection.execute("UPDATE inventory.cursor SET log_id = gen_random_uuid()")
        assert (await fleet.get("/v1/vms", name="web00")).json()["items"] == [{}]

    async def test_without_anything_is_empty(self, site: Site) -> None:
        await site.settle()
        answer = await site.get("/v1/vms")
        assert answer.json() == {"items": [], "next": None, "position": 0}

    @pytest.mark.parametrize("sort", ["name", "-name", "created", "-status_since", "memory"])
    async def test_pages_give_each_item_once(self, fleet: Site, sort: str) -> None:
        everything = await fleet.names("/v1/vms", sort=sort)
        paged: list[str] = []
        link: str | None = f"/v1/vms?limit=3&sort={sort}"
        while link is not None:
            answer = await fleet.client.get(link)
            page = answer.json()
            paged += [item["name"] for item in page["items"]]
            link = page["next"]
        assert paged == everything

    async def test_pages_are_stable_while_objects_come_and_go(self, fleet: Site) -> None:
        before = await fleet.names("/v1/vms")
        page = (await fleet.get("/v1/vms", limit="4")).json()
        seen = [item["name"] for item in page["items"]]
        history = fleet.history
        recorded = history.recorded()
        created = next(r for r in recorded if isinstance(r.event, vm_events.VmCreated))
        event = created.event
        assert isinstance(event, vm_events.VmCreated)
        for name in ("aaa", "Db_75", "zzz"):
            history.make_vm(event.data_center, event.cluster, name)
        gone = await first_id(fleet, "/v1/vms", name="web06")
        history.add(f"vm/{gone}", vm_events.VmRemoved(name="web06", cluster=event.cluster))
        await fleet.settle()
        link = page["next"]
        while link is not None:
            page = (await fleet.client.get(link)).json()
            seen += [item["name"] for item in page["items"]]
            link = page["next"]
        # What came before the place that was reached is not seen; nothing comes twice or is lost.
        assert seen == [name for name in before if name != "web06"] + ["zzz"]

    async def test_of_audit_records_is_newest_first_and_narrowed(self, fleet: Site) -> None:
        answer = await fleet.get("/v1/events", limit="3")
        positions = [item["position"] for item in answer.json()["items"]]
        assert positions == sorted(positions, reverse=True)
        assert await fleet.names("/v1/events", severity="error,alert") == ["VDS_FAILURE"]
        assert await fleet.names("/v1/events", code="12") == ["VDS_FAILURE"]
        assert await fleet.names("/v1/events", search="NON-responsive host2") == ["VDS_FAILURE"]
        host = await first_id(fleet, "/v1/hosts", name="host2")
        assert "VDS_FAILURE" in await fleet.names("/v1/events", object=host)
        last = answer.json()["items"][0]["time"]
        assert await fleet.names("/v1/events", since=last) == ["VDS_FAILURE"]
        assert "VDS_FAILURE" in await fleet.names("/v1/events", until=last.replace("Z", "+00:00"))

    async def test_of_operations_tells_open_from_ended(self, fleet: Site) -> None:
        vm_id = await first_id(fleet, "/v1/vms")
        done = fleet.history.begin_operation(f"vm/{vm_id}", "Db_7")
        fleet.history.end(done, f"vm/{vm_id}", "Db_7")
        going = fleet.history.begin_operation(f"vm/{vm_id}", "Db_7")
        await fleet.settle()
        for parameters, expected in (
            ({"open": "true"}, [going]),
            ({"open": "false"}, [done]),
            ({"target": vm_id}, [going, done]),
            ({"status": "succeeded", "kind": "vm.start"}, [done]),
        ):
            answer = await fleet.get("/v1/operations", **parameters)
            assert [item["id"] for item in answer.json()["items"]] == expected


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("/v1/vms?colour=red", "unknown-parameter"),
            ("/v1/vms?status=on", "invalid-parameter"),
            ("/v1/vms?status=", "invalid-parameter"),
            ("/v1/vms?highly_available=perhaps", "invalid-parameter"),
            ("/v1/vms?status=up&status=down", "invalid-parameter"),
            ("/v1/vms?name=%00", "invalid-parameter"),
            ("/v1/vms?sort=colour", "invalid-parameter"),
            ("/v1/vms?limit=0", "invalid-parameter"),
            ("/v1/vms?limit=10001", "invalid-parameter"),
            ("/v1/vms?limit=many", "invalid-parameter"),
            ("/v1/vms?limit=%C2%B2", "invalid-parameter"),
            ("/v1/vms?fields=name,colour", "invalid-parameter"),
            ("/v1/vms?cursor=abc", "invalid-cursor"),
            ("/v1/vms?cursor=!!!", "invalid-cursor"),
            ("/v1/vms?after=soon", "invalid-parameter"),
            ("/v1/vms?after=123456789012345678901234567890", "invalid-parameter"),
            ("/v1/vms?after=999999", "invalid-parameter"),
            ("/v1/events?since=yesterday", "invalid-parameter"),
            ("/v1/events?since=2026-11-01T08:00:00", "invalid-parameter"),
            ("/v1/events?code=ten", "invalid-parameter"),
            ("/v1/operations?open=maybe", "invalid-parameter"),
            ("/v1/events/1?at=2026-11-01T08:00:00Z", "unknown-parameter"),
            ("/v1/stream?kinds=colour", "invalid-parameter"),
            ("/v1/stream?after=x", "invalid-parameter"),
        ],
    )
    async def test_say_what_is_wrong(self, fleet: Site, path: str, kind: str) -> None:
        answer = await fleet.client.get(path)
        assert answer.status_code == 400
        problem = answer.json()
        assert problem["type"] == kind
        assert problem["detail"]
        assert problem["remedy"]
        assert problem["instance"] == path.partition("?")[0]
        jsonschema.validate(problem, schema_of("ProblemDocument"))

    async def test_a_cursor_of_another_list_is_refused(self, fleet: Site) -> None:
        link = (await fleet.get("/v1/vms", limit="3")).json()["next"]
        answer = await fleet.client.get(f"{link}&status=up")
        assert answer.json()["type"] == "invalid-cursor"
        answer = await fleet.client.get(link.replace("/v1/vms", "/v1/hosts"))
        assert answer.json()["type"] == "invalid-cursor"

    async def test_nobody_and_hosts_read_nothing(self, fleet: Site) -> None:
        for path in openapi_paths():
            url = path.replace("{id}", "x")
            answer = await fleet.client.get(url, headers={"Authorization": "Bearer nobody"})
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            answer = await fleet.client.get(url, headers={"Authorization": "Bearer host"})
            assert answer.status_code == 403

    async def test_an_inventory_that_is_not_there_yet_is_a_503(self, fleet: Site) -> None:
        with psycopg.connect(fleet.dsn) as connection:
            connection.execute("ALTER SCHEMA inventory RENAME TO elsewhere")
        answer = await fleet.get("/v1/vms")
        assert answer.status_code == 503
        assert answer.json()["type"] == "inventory-building"
        assert answer.headers["retry-after"] == "1"


class TestReadYourWrites:
    async def test_waits_until_the_inventory_is_there(self, fleet: Site) -> None:
        vm_id = fleet.history.make_vm("dc", "cluster", "fresh")
        position = fleet.write()
        answer = await fleet.get(f"/v1/vms/{vm_id}", after=str(position))
        assert answer.status_code == 200
        assert int(answer.headers["chronovisor-position"]) >= position

    async def test_takes_the_position_as_a_header_too(self, fleet: Site) -> None:
        vm_id = fleet.history.make_vm("dc", "cluster", "fresh")
        headers = {"Chronovisor-Min-Position": str(fleet.write())}
        answer = await fleet.client.get(f"/v1/vms/{vm_id}", headers=headers)
        assert answer.json()["name"] == "fresh"

    async def test_says_so_where_the_inventory_does_not_move(
        self, database: Database, site: Site
    ) -> None:
        site.history.make_data_center()
        await site.settle()
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute("BEGIN; LOCK TABLE inventory.cursor IN EXCLUSIVE MODE")
            site.history.make_data_center("other")
            answer = await site.get("/v1/data_centers", after=str(site.write()))
        assert answer.status_code == 503
        assert answer.json()["type"] == "inventory-behind"
        assert answer.headers["retry-after"] == "1"


class TestPast:
    async def test_is_what_the_inventory_said_then(self, site: Site) -> None:
        """Every document that ever was is asked for again, at its time."""
        history = site.history
        center = history.make_data_center()
        where = history.make_cluster(center)
        host = history.make_host(center, where)
        vm_id = history.make_vm(center, where)
        history.ready(vm_id)
        history.runs(vm_id, host)
        history.silence(host, "host1")
        work = history.begin_operation(f"vm/{vm_id}", kind="vm.stop")
        history.session(host, "host1")
        history.down(vm_id, host)
        history.end(work, f"vm/{vm_id}")
        history.add(f"host/{host}", host_events.HostMaintenanceRequested(name="host1"))
        history.add(f"vm/{vm_id}", vm_events.VmRemoved(name="web01", cluster=where))
        everything = list(history.events)
        history.events.clear()
        await site.settle()
        moments: list[tuple[dt.datetime, int, dict[str, Any]]] = []
        paths = {
            f"/v1/vms/{vm_id}",
            f"/v1/hosts/{host}",
            f"/v1/clusters/{where}",
            f"/v1/data_centers/{center}",
            f"/v1/operations/{work}",
        }
        for event in everything:
            write_log(site.dsn, [event])
            now: dict[str, Any] = {}
            for path in sorted(paths):
                answer = await site.get(path, after=str(event.position))
                assert answer.status_code in {200, 404}
                now[path] = answer.json() if answer.status_code == 200 else None
            moments.append((event.time, event.position, now))
        for time, position, now in moments:
            for path, document in now.items():
                answer = await site.get(path, at=time.isoformat())
                assert answer.headers.get("chronovisor-position", str(position)) == str(position)
                if document is None:
                    assert answer.status_code == 404
                    assert f" at {time.isoformat()}" in answer.json()["detail"]
                    continue
                assert answer.status_code == 200, answer.text
                uncounted = _uncounted(document)
                found = answer.json()
                if "data_centers" in path:
                    # Its status follows from the counts.
                    for field in ("status", "status_reason", "guide"):
                        del uncounted[field], found[field]
                assert found == uncounted, f"{path} at position {position}"

    async def test_before_anything_is_nothing(self, fleet: Site) -> None:
        vm_id = await first_id(fleet, "/v1/vms")
        answer = await fleet.get(f"/v1/vms/{vm_id}", at="1970-01-01T00:00:00Z")
        assert answer.status_code == 404

    async def test_needs_a_time_with_its_zone(self, fleet: Site) -> None:
        vm_id = await first_id(fleet, "/v1/vms")
        answer = await fleet.get(f"/v1/vms/{vm_id}", at="noon")
        assert answer.json()["type"] == "invalid-parameter"


def _uncounted(document: dict[str, Any]) -> dict[str, Any]:
    counts: dict[str, Any] = {
        name: None for name in ("vms", "hosts", "clusters") if name in document
    }
    return {**document, **counts}


class TestOpenapi:
    async def test_describes_what_is_answered(self, fleet: Site) -> None:
        vm_id = await first_id(fleet, "/v1/vms")
        history = fleet.history
        history.begin_operation(f"vm/{vm_id}", "Db_7")
        cluster = await first_id(fleet, "/v1/clusters")
        group = affinity.AffinityGroupCreated(
            name="apart", cluster=cluster, affinity=affinity.Affinity()
        )
        history.add(f"affinity_group/{history.new_id()}", group)
        label = affinity.AffinityLabelCreated(name="fast")
        history.add(f"affinity_label/{history.new_id()}", label)
        ranges = (MacRange(first="56:6f:00:00:00:00", last="56:6f:00:00:ff:ff"),)
        history.add(f"mac_pool/{history.new_id()}", MacPoolCreated(name="lab", ranges=ranges))
        policy = SchedulingPolicyCreated(name="ours", scheduling=Scheduling())
        history.add(f"scheduling_policy/{history.new_id()}", policy)
        await fleet.settle()
        components = openapi_components()
        for path, item in openapi_paths().items():
            if path == "/v1/stream" or "{id}" in path:
                continue
            answer = await fleet.get(path)
            schema = item["get"]["responses"]["200"]["content"]["application/json"]["schema"]
            jsonschema.validate(
                answer.json(),
                {**schema, "components": components},
                format_checker=jsonschema.FormatChecker(),
            )
            assert answer.json()["items"], path
            one = await fleet.get(f"{path}/{answer.json()['items'][0]['id']}")
            responses = openapi_paths()[f"{path}/{{id}}"]["get"]["responses"]
            schema = responses["200"]["content"]["application/json"]["schema"]
            jsonschema.validate(one.json(), {**schema, "components": components})

    def test_describes_each_route(self) -> None:
        paths = set(openapi_paths())
        assert paths == {
            f"/v1/{name}{one}"
            for name in (
                *("data_centers", "clusters", "hosts", "vms", "operations", "events"),
                *("affinity_groups", "affinity_labels", "mac_pools", "scheduling_policies"),
            )
            for one in ("", "/{id}")
        } | {"/v1/stream"} | {host_parts.path(part) for part in host_parts.PARTS}

    async def test_the_lists_inside_of_a_hosts_hardware(self, fleet: Site) -> None:
        """given a host that told what it is made of, then each list is at a path of its own"""
        host, other = [one["id"] for one in (await fleet.get("/v1/hosts")).json()["items"]][:2]
        hardware = hw.Hardware(
            nics=(hw.HostNic(name="eth0", mac="52:54:00:00:00:01", up=True, speed_mbps=10_000),),
            devices=(
                hw.PciDevice(
                    address="0000:3b:00.0",
                    class_code="020000",
                    vendor="8086",
                    product="1572",
                    iommu_group=31,
                    virtual_functions=1,
                    virtual_functions_max=64,
                ),
                hw.PciDevice(
                    address="0000:3b:02.0",
                    class_code="020000",
                    vendor="8086",
                    product="154c",
                    physical_function="0000:3b:00.0",
                    mdev_types=(hw.MdevType(id="nvidia-222", name="GRID T4-1B", available=16),),
                ),
            ),
            usb_devices=(
                hw.UsbDevice(address="1-1.4", vendor="0529", product="0001", name="HASP"),
            ),
            block_devices=(hw.BlockDevice(name="sda", size_bytes=2**30),),
            numa_nodes=(hw.NumaNode(node=0, cpus="0-7", memory_bytes=2**34),),
        )
        able = msgspec.structs.replace(CAPABILITIES, hardware=hardware)
        fleet.history.add(f"host/{host}", host_events.HostCapabilitiesReported(capabilities=able))
        await fleet.settle()
        components = openapi_components()
        for part in host_parts.PARTS:
            path = host_parts.path(part)
            answer = await fleet.get(path.replace("{id}", host))
            responses = openapi_paths()[path]["get"]["responses"]
            schema = responses["200"]["content"]["application/json"]["schema"]
            jsonschema.validate(answer.json(), {**schema, "components": components})
            told = msgspec.json.encode(getattr(hardware, part))
            assert answer.json()["items"] == msgspec.json.decode(told)
            assert (await fleet.get(path.replace("{id}", other))).json() == {"items": []}
            nobody = "00000000-0000-0000-0000-000000000000"
            assert (await fleet.get(path.replace("{id}", nobody))).status_code == 404

    def test_refers_only_to_what_there_is(self) -> None:
        schemas = openapi_components()["schemas"]
        for reference in _references([openapi_paths(), schemas]):
            assert reference.removeprefix("#/components/schemas/") in schemas


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


async def test_reads_go_on_while_the_inventory_is_rebuilt(fleet: Site) -> None:
    statuses: set[int] = set()
    sizes: set[int] = set()
    done = asyncio.Event()

    async def read() -> None:
        while not done.is_set():
            answer = await fleet.get("/v1/vms")
            statuses.add(answer.status_code)
            sizes.add(len(answer.json().get("items", ())))

    reading = asyncio.create_task(read())
    for _ in range(3):
        await fleet.projector.rebuild()
    done.set()
    await reading
    assert statuses == {200}
    assert sizes == {10}
