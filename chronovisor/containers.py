"""What only containers need: their set-up, their simulated host, and its health.

    python -m chronovisor.containers setup | enrol HOST... | agent-health

`setup` makes what several containers must agree upon before the first of them starts: passwords and
keys, each in a folder that only those containers mount who need it. Done again, it changes nothing.
docker-compose.yml shows how the folders go together.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path

import httpx
from psycopg.conninfo import make_conninfo

from access.files import create_once, make_private_folder, read_bounded, write_atomically
from chronovisor.enrol import EnrolmentError, enrol_hosts
from chronovisor.folder import Folder
from chronovisor.installation import Installation
from chronovisor.parts.fleet import SIMULATED, simulated_hardware
from chronovisor.settings import SettingsError

APPLICATION = "chronovisor"
"""The name of the database and of its owner, who is no superuser."""

APPLICATION_PASSWORD_NAME = "application_password"  # noqa: S105 - the name of a file
SUPERUSER_PASSWORD_NAME = "superuser_password"  # noqa: S105 - the name of a file
INITIAL_SQL_NAME = "10-chronovisor.sql"
GRAFANA_PASSWORD_NAME = "grafana_password"  # noqa: S105 - the name of a file
PASSWORD_BYTES = 32
HEALTH_TIMEOUT_S = 5.0

FOREIGN_MODE = 0o444
"""For files in folders that one other container mounts, whose process has another user id."""


def make_database_secrets(postgres: Path, dsn_file: Path, host: str) -> None:
    """Make PostgreSQL's passwords, the SQL that it runs on its first start, and our DSN.

    The SQL makes the application's user and database; passwords are hexadecimal and need no
    quoting. Everything follows from the two passwords, so that a set-up that was cut off goes on.
    """
    superuser = _password(postgres / SUPERUSER_PASSWORD_NAME, mode=FOREIGN_MODE)
    application = _password(dsn_file.parent / APPLICATION_PASSWORD_NAME)
    if superuser == application:
        message = "the passwords of superuser and application are the same"
        raise ValueError(message)
    sql = (
        f"create role {APPLICATION} login password '{application}';\n"
        f"create database {APPLICATION} owner {APPLICATION};\n"
    )
    _keep(postgres / INITIAL_SQL_NAME, sql, mode=FOREIGN_MODE)
    dsn = make_conninfo("", host=host, dbname=APPLICATION, user=APPLICATION, password=application)
    _keep(dsn_file, f"{dsn}\n")


def make_grafana_secret(folder: Path) -> None:
    """Make the password of Grafana's admin."""
    _password(folder / GRAFANA_PASSWORD_NAME, mode=FOREIGN_MODE)


def _password(path: Path, *, mode: int = 0o600) -> str:
    """Return the password in a file, made if there is none."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    create_once(path, f"{secrets.token_hex(PASSWORD_BYTES)}\n".encode(), mode=mode)
    return read_bounded(path).decode("ascii").strip()


def _keep(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Have a file hold a text; it is not touched where it does already."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not path.exists() or read_bounded(path).decode() != text:
        write_atomically(path, text.encode(), mode=mode)


def setup(folder: Path, postgres: Path, grafana: Path, database_host: str) -> None:
    """Make everything that containers share; raises SettingsError or OSError."""
    installation = Installation.open(folder)
    dsn_file = installation.settings.database.dsn_file
    if dsn_file is None:
        message = "containers need the setting database.dsn_file"
        raise SettingsError(message)
    make_database_secrets(postgres, dsn_file, database_host)
    make_grafana_secret(grafana)
    installation.prepare()
    installation.server_files()


def enrol(folder: Path, names: list[str]) -> None:
    """Let simulated hosts join, once; raises EnrolmentError while the engine does not answer."""
    place = Folder(folder).hosts / SIMULATED
    make_private_folder(place)
    enrol_hosts(Installation.open(folder), place, names, simulated_hardware)


def agent_health(folder: Path) -> bool:
    """Tell whether the simulated hosts' agent speaks with the gateway, for all of its hosts."""
    socket = Folder(folder).sockets / "fleet.sock"
    transport = httpx.HTTPTransport(uds=str(socket))
    with httpx.Client(transport=transport, timeout=HEALTH_TIMEOUT_S) as http:
        answer = http.get("http://agent/health")
    return answer.is_success and answer.json().get("status") == "ok"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="chronovisor.containers")
    parser.add_argument("--dir", type=Path, required=True, help="the installation's folder")
    actions = parser.add_subparsers(dest="action", required=True)
    making = actions.add_parser("setup", help="make passwords and keys")
    making.add_argument("--postgres", type=Path, required=True, help="PostgreSQL's folder")
    making.add_argument("--grafana", type=Path, required=True, help="Grafana's folder")
    making.add_argument("--database-host", required=True, help="the host name of PostgreSQL")
    enrolling = actions.add_parser("enrol", help="let simulated hosts join")
    enrolling.add_argument("names", nargs="+", help="the hosts' names")
    actions.add_parser("agent-health", help="exit with 1 unless the simulated agent is well")
    return parser


def main() -> None:
    """Do what the command line says."""
    arguments = parser().parse_args()
    try:
        if arguments.action == "setup":
            setup(arguments.dir, arguments.postgres, arguments.grafana, arguments.database_host)
        elif arguments.action == "enrol":
            enrol(arguments.dir, arguments.names)
        elif not agent_health(arguments.dir):
            sys.exit("the agent does not speak with the gateway, or its hypervisor does not answer")
    except (SettingsError, EnrolmentError, OSError, ValueError, httpx.HTTPError) as error:
        sys.exit(f"chronovisor.containers {arguments.action}: {error}")


if __name__ == "__main__":
    main()
