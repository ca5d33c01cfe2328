"""The commands that run processes: `up`, each part by itself, and the agent's.

Imports are inside of the functions, so that a command of the CLI that only asks over HTTP starts
quickly.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from chronovisor.cli import backup

ERROR, REFUSED = 1, 3
_Dir = Annotated[Path, typer.Option("--dir", help="The installation's folder.")]
_HERE = Path("var")
_STANDARD_INPUT = "-"


def register(app: typer.Typer) -> None:
    """Add the commands to the CLI."""
    app.command("up")(up)
    app.command("setup")(setup)
    app.command("check")(check)
    backup.register(app)
    for name, text in (
        ("serve", "Run the engine: HTTP API and agents' gateway."),
        ("policies", "Run the policies: placement and every long operation."),
        ("projector", "Run the projector, which keeps the inventory."),
        ("relay", "Run the relay, which publishes the log to Kafka."),
        ("dwh", "Run the warehouse."),
        ("notifier", "Run the notifier."),
    ):
        app.command(name, help=text)(_part_command("engine" if name == "serve" else name))
    agent = typer.Typer(no_args_is_help=True, help="The agent of a host.")
    agent.command("join")(agent_join)
    agent.command("run")(agent_run)
    app.add_typer(agent, name="agent")


def up(
    folder: _Dir = _HERE,
    port: Annotated[
        int | None, typer.Option(help="The API's port; 0: any free one.", min=0, max=65_534)
    ] = None,
    hosts: Annotated[int, typer.Option(help="Simulated hosts.", min=0, max=10_000)] = 1,
    libvirt: Annotated[
        str | None, typer.Option(help="Add this machine as a real host: a libvirt URI.")
    ] = None,
) -> None:
    """Run everything on this machine: database, engine, policies, warehouse, notifier, hosts."""
    from chronovisor.running import configure_logging
    from chronovisor.settings import SettingsError
    from chronovisor.supervisor_parts import SupervisorRefusal
    from chronovisor.up import Plan, run_up
    from commands.gateway.reception import PortInUse

    configure_logging(quiet=True)
    try:
        run_up(folder, Plan(hosts=hosts, libvirt=libvirt), port, typer.echo)
    except (SupervisorRefusal, SettingsError, PortInUse, OSError, ValueError) as error:
        typer.echo(f"chronovisor up: {error}", err=True)
        raise typer.Exit(ERROR) from None


def setup(folder: _Dir = _HERE) -> None:
    """Make an installation's folder: admin token, secrets, CA. Done again, it changes nothing."""
    from chronovisor.installation import Installation
    from chronovisor.settings import SettingsError

    try:
        installation = Installation.open(folder)
        installation.prepare()
        files = installation.server_files()
    except (SettingsError, OSError, ValueError) as error:
        typer.echo(f"chronovisor setup: {error}", err=True)
        raise typer.Exit(ERROR) from None
    typer.echo(f"admin token     {installation.folder.admin_token}")
    typer.echo(f"CA certificate  {files.trust}")


def check(
    part: Annotated[str, typer.Argument(help="engine, policies, projector, relay, dwh, ...")],
    folder: _Dir = _HERE,
) -> None:
    """Tell whether a part is at work, by its heartbeat: exit code 0 or 1 (for health checks)."""
    import psycopg

    from chronovisor.heartbeat import AT_WORK, read_health
    from chronovisor.installation import Installation

    async def read() -> str:
        dsn = Installation.open(folder).dsn()
        connection = await psycopg.AsyncConnection.connect(dsn, connect_timeout=5)
        async with connection:
            states = {one.part: one for one in await read_health(connection)}
        found = states.get(part)
        return "never heard of" if found is None else f"{found.state} {found.detail}".strip()

    import asyncio

    try:
        state = asyncio.run(read())
    except (psycopg.Error, OSError) as error:
        state = f"unknown: {error}"
    typer.echo(f"{part}: {state}")
    raise typer.Exit(0 if state.partition(" ")[0] in AT_WORK else ERROR)


def _part_command(part: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - a typer command
    def run(folder: _Dir = _HERE) -> None:
        _become(part, "--dir", str(folder))

    return run


def agent_join(
    url: Annotated[str, typer.Option(help="The engine's URL, https://HOST:PORT.")],
    folder: Annotated[Path, typer.Option("--dir", help="The host's state folder.")],
    token_file: Annotated[
        str, typer.Option(help="The file that holds the enrolment token; '-': standard input.")
    ] = _STANDARD_INPUT,
    hardware: Annotated[
        str | None, typer.Option(help="The machine's hardware id, where it has none.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="How long to wait for approval, in s.")] = 3600,
) -> None:
    """Join this machine as a host: its key is made here and never leaves."""
    import asyncio

    from hostagent.identity import UnknownMachineError, read_hardware_id
    from hostagent.join import JoinRefusedError, join

    try:
        token = (
            sys.stdin.readline()
            if token_file == _STANDARD_INPUT
            else Path(token_file).read_text("ascii")
        )
        machine = hardware if hardware is not None else read_hardware_id()
        joined = asyncio.run(
            join(url, token.strip(), folder, hardware=machine, approval_timeout_s=timeout)
        )
    except JoinRefusedError as error:
        typer.echo(f"chronovisor agent join: {error}", err=True)
        raise typer.Exit(REFUSED) from None
    except (UnknownMachineError, OSError, ValueError) as error:
        typer.echo(f"chronovisor agent join: {error}", err=True)
        raise typer.Exit(ERROR) from None
    typer.echo(f"Joined as host {joined.name} ({joined.host}).")
    typer.echo(f"Start its agent with: chronovisor agent run --dir {folder}")


def agent_run(
    folder: Annotated[Path, typer.Option("--dir", help="The host's state folder.")],
    libvirt: Annotated[str, typer.Option(help="The libvirt URI.")] = "qemu:///system",
    storage: Annotated[
        Path | None, typer.Option(help="The folder of disks and images; default DIR/storage.")
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(help="The machine's hardware id, as given when it joined.")
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(help="Serve health and metrics: 127.0.0.1:PORT or a Unix socket's path."),
    ] = None,
    migration: Annotated[
        str,
        typer.Option(help="Send and take in running VMs: this host's ADDRESS or ADDRESS:PORT."),
    ] = "",
    time_scale: Annotated[
        float, typer.Option(help="Multiplies every time-out.", envvar="CHRONOVISOR_TIME_SCALE")
    ] = 1.0,
) -> None:
    """Run the agent of a host that has joined. Ending it never touches a VM."""
    from chronovisor.running import run_part
    from hostagent.options import real_agent
    from hostagent.process import run_agent

    process = real_agent(
        folder,
        libvirt,
        storage=storage,
        hardware=hardware,
        time_scale=time_scale,
        status=status,
        migration=migration,
    )
    run_part("agent", lambda stop: run_agent(process, stop))


def _become(*arguments: str) -> None:
    """Become a part's process, which carries less than the CLI does.

    -P: a folder of the place where it is started may have a package's name (DIR/notifier has).
    """
    import os

    os.execv(sys.executable, [sys.executable, "-P", "-m", "chronovisor.parts", *arguments])  # noqa: S606
