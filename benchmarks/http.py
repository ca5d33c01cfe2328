"""Commands over HTTPS: durable ones against the same path without the append (goal 1).

`python -m benchmarks.http [--seconds 4] [--connections 128]`. Three servers answer the same load,
one after the other, from a process of their own: the engine's API on PostgreSQL; the same API whose
log accepts without storing; and an application that answers 202 and does nothing else. The load
comes from wrk, over TLS with a token, each request the creation of a VM of another name.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import multiprocessing
import re
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from access.certificates import CertificateAuthority
from access.secrets import EngineSecret
from access.ssh_key import SshKey
from access.succession import Authorities
from access.tokens import TokenVerifier, ensure_admin_token
from access.trust import ServerFiles, ensure_server_files
from access.vault import MemoryVault
from benchmarks._report import compare
from benchmarks.append import RAW_TABLE, raw_rate
from chronovisor.agent_bundle import BundleKeeper
from chronovisor.contexts import context
from chronovisor.defaults import ensure_defaults
from commands.api.app import Api
from commands.api.application import Application
from commands.api.machines import Machines
from commands.gateway.enrolment import Enrolment
from commands.gateway.placement import Placement
from commands.gateway.reception import bind
from commands.gateway.tls import serve, server_config
from commands.gateway.view import GatewayView
from commands.kernel.handler import Handler
from events.log.port import Append, Appended, Outcome
from events.log.postgres import PostgresLog
from tests.harness.postgres import Database, PostgresServer
from tests.harness.workspace import Workspace

GOAL = 0.9
SCRIPT = """
local counter = 0
local threads = 0
function setup(thread) thread:set("id", threads); threads = threads + 1 end
function init(args) run = args[1]; cluster = args[2]; token = args[3] end
function request()
  counter = counter + 1
  local body = string.format('{"name":"%s-%d-%d","cluster":"%s"}', run, id, counter, cluster)
  return wrk.format("POST", nil, {["Authorization"]="Bearer " .. token,
    ["Content-Type"]="application/json"}, body)
end
"""


class Forgetful:
    """A log that accepts everything and stores nothing; it reads from a real one."""

    def __init__(self, log: PostgresLog) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the log has
        return getattr(self._log, name)

    async def append(self, append: Append) -> Outcome:
        """Accept."""
        return Appended(first=1, count=len(append.events), time=append.time, answer=append.answer)


def serve_variant(variant: str, url: str, folder: str, port: int) -> None:
    """Be one of the servers, until killed."""
    uvloop.run(_serve(variant, url, Path(folder), port))


async def _serve(variant: str, url: str, folder: Path, port: int) -> None:
    async with PostgresLog.open(url) as log:
        application: Any = _bare()
        if variant != "bare":
            handler = Handler(log if variant == "durable" else Forgetful(log))
            application = _api(handler, log, folder)
        files = _files(folder)
        config = server_config(
            application,
            host="127.0.0.1",
            port=port,
            certificate=files.certificate,
            key=files.key,
        )
        await serve(
            (config, bind("127.0.0.1", port)), stop=asyncio.Event(), on_started=lambda: None
        )


def _bare() -> Starlette:
    async def accept(request: Request) -> Response:
        await request.body()
        return Response(b"{}", status_code=202)

    return Starlette(routes=[Route("/v1/vms", accept, methods=["POST"])])


def _api(handler: Handler, log: PostgresLog, folder: Path) -> Application:
    secret = EngineSecret.load_or_create(folder / "secret")
    authorities = Authorities(folder / "ca")
    enrolment = Enrolment(handler, GatewayView(), authorities, secret, folder / "ca", "")

    async def health() -> dict[str, object]:
        return {"ok": True, "parts": []}

    api = Api(
        handler=handler,
        reader=log,
        tokens=TokenVerifier.from_admin_token_file(folder / "token"),
        secret=secret,
        vault=MemoryVault(),
        enrolment=enrolment,
        placement=Placement(GatewayView()),
        machines=Machines(BundleKeeper(folder / "agent"), SshKey.load_or_create(folder / "ssh")),
        context=context,
        health=health,
    )
    return Application(api.routes(b"{}", "", ""))


def _files(folder: Path) -> ServerFiles:
    return ensure_server_files(
        folder / "ca", folder / "certificates", "engine", ["localhost"], ["127.0.0.1"], _now()
    )


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@contextlib.asynccontextmanager
async def _log(url: str) -> AsyncIterator[PostgresLog]:
    async with PostgresLog.open(url) as log:
        yield log


async def prepare(url: str) -> str:
    """Make the default cluster; return its id."""
    async with _log(url) as log:
        await ensure_defaults(Handler(log), log.log_id)
        for stored in await log.read(0):
            if stored.name == "cluster.created":
                return stored.stream.partition("/")[2]
    message = "the default cluster is missing"
    raise RuntimeError(message)


def measure(
    variant: str, database: Database, folder: Path, cluster: str, arguments: argparse.Namespace
) -> float:
    """Return the accepted requests per second of a variant."""
    with bind("127.0.0.1", 0) as free:
        port = int(free.getsockname()[1])
    server = multiprocessing.get_context("spawn").Process(
        target=serve_variant, args=(variant, database.url, str(folder), port)
    )
    server.start()
    try:
        _await(lambda: _answers(port, folder))
        return _load(variant, port, folder, cluster, arguments)
    finally:
        server.kill()
        server.join()


def _answers(port: int, folder: Path) -> bool:
    trust = ssl.create_default_context(cafile=str(folder / "ca" / "trust.crt"))
    try:
        httpx.get(f"https://127.0.0.1:{port}/v1/health", verify=trust, timeout=2)
    except httpx.HTTPError:
        return False
    return True


def _await(reached: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError("the server does not answer")
        time.sleep(0.1)


def _load(
    variant: str, port: int, folder: Path, cluster: str, arguments: argparse.Namespace
) -> float:
    script = folder / "load.lua"
    script.write_text(SCRIPT)
    token = (folder / "token").read_text().strip()
    ran = subprocess.run(
        [
            *(
                "wrk",
                "-t1",
                f"-c{arguments.connections}",
                f"-d{arguments.seconds}s",
                "-s",
                str(script),
            ),
            *(f"https://127.0.0.1:{port}/v1/vms", "--", variant, cluster, token),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=arguments.seconds + 60,
    )
    found = re.search(r"(\d+) requests in ([0-9.]+)s", ran.stdout)
    if found is None:
        raise RuntimeError(ran.stdout + ran.stderr)
    turned_away = re.search(r"Non-2xx or 3xx responses: (\d+)", ran.stdout)
    refused = int(turned_away[1]) if turned_away is not None else 0
    if refused:  # on a busy machine the engine turns away what it cannot do in time
        print(f"{variant}: {refused} of {found[1]} requests were refused, and do not count")
    return (int(found[1]) - refused) / float(found[2])


def main() -> None:
    """Measure the three and print their ratios."""
    parser = argparse.ArgumentParser(prog="benchmarks.http", description=__doc__)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=128)
    arguments = parser.parse_args()
    workspace = Workspace()
    try:
        server = PostgresServer(workspace)
        server.start()
        folder = workspace.make_folder("http")
        ensure_admin_token(folder / "token")
        CertificateAuthority.load_or_create(folder / "ca", _now())
        _files(folder)
        database = server.create_database("http")
        cluster = uvloop.run(prepare(database.url))
        rates = {
            variant: measure(variant, database, folder, cluster, arguments)
            for variant in ("bare", "forgetful", "durable")
        }
        with psycopg.connect(database.url) as connection:
            connection.execute(RAW_TABLE)
        raw = raw_rate(server, database, 8, 2)
    finally:
        workspace.close()
    durable = rates["durable"]
    same = "HTTPS commands, 128 connections, over the same without append"
    compare(1, same, durable, rates["forgetful"], "1/s", limit=GOAL)
    compare(1, "the same over a bare 202", durable, rates["bare"], "1/s")
    compare(1, "the same over raw 8-client INSERT", durable, raw, "1/s")


if __name__ == "__main__":
    main()
