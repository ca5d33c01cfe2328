"""The commands that replace the certificate authority: see docs/certificates.md."""

# ruff: noqa: PLC0415 - imports are inside of the functions, as in `processes`

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from access.certificates import CertificateAuthority
    from chronovisor.installation import Installation

ERROR, REFUSED = 1, 3
NAMES_MAX = 20
_Dir = Annotated[Path, typer.Option("--dir", help="The installation's folder.")]
_HERE = Path("var")


def register(app: typer.Typer) -> None:
    """Add the commands to the CLI."""
    ca = typer.Typer(no_args_is_help=True, help="The certificate authority, and its successor.")
    ca.command("show")(show)
    ca.command("begin")(begin)
    ca.command("finish")(finish)
    app.add_typer(ca, name="ca")


def show(folder: _Dir = _HERE) -> None:
    """Show the CA and, while it is being replaced, its successor and the hosts that are left."""
    from access.succession import Authorities

    installation = _installation(folder)
    try:
        authorities = Authorities(installation.folder.authority)
    except (OSError, ValueError) as error:
        _fail(str(error))
    _tell("CA", authorities.current)
    if not authorities.overlap:
        return
    _tell("successor", authorities.signer)
    typer.echo(_left_text(_left(installation, authorities.current)))


def begin(folder: _Dir = _HERE) -> None:
    """Make a new CA beside the old one: both are trusted, and hosts move over by themselves."""
    from access import succession
    from chronovisor.contexts import now

    installation = _installation(folder)
    try:
        successor = succession.begin(installation.folder.authority, now())
    except (OSError, ValueError) as error:
        _fail(str(error))
    _tell("successor", successor)
    typer.echo("Hosts move over within two hours. 'chronovisor ca show' tells who is left.")


def finish(
    folder: _Dir = _HERE,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Lock out the hosts that are left: they join again.")
    ] = False,
) -> None:
    """Put the new CA in the old one's place. Refused (exit code 3) while a host needs the old."""
    from access import succession

    installation = _installation(folder)
    place = installation.folder.authority
    try:
        authorities = succession.Authorities(place)
        left = [] if force else _left(installation, authorities.current)
        if authorities.overlap and left:
            typer.echo(f"chronovisor ca finish: {_left_text(left)}", err=True)
            raise typer.Exit(REFUSED)
        _tell("CA", succession.finish(place))
    except succession.NoSuccession as error:
        typer.echo(f"chronovisor ca finish: {error}", err=True)
        raise typer.Exit(REFUSED) from None
    except (OSError, ValueError) as error:
        _fail(str(error))


def _installation(folder: Path) -> Installation:
    from chronovisor.installation import Installation
    from chronovisor.settings import SettingsError

    try:
        return Installation.open(folder)
    except (SettingsError, OSError, ValueError) as error:
        _fail(str(error))


def _left(installation: Installation, authority: CertificateAuthority) -> list[str]:
    """Return the hosts that need the old CA, as the log has it."""
    import asyncio

    import psycopg

    from chronovisor.contexts import now
    from chronovisor.succession import hosts_of
    from events.log.port import UnavailableError
    from events.log.postgres import PostgresLog

    async def read() -> list[str]:
        async with PostgresLog.open(installation.dsn()) as log:
            return await hosts_of(log, authority, now())

    try:
        return asyncio.run(read())
    except (psycopg.Error, UnavailableError, OSError) as error:
        _fail(f"the log cannot be read: {error}")


def _left_text(names: list[str]) -> str:
    if not names:
        return "No host needs the old CA any more: 'chronovisor ca finish'."
    more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
    told = ", ".join(names[:NAMES_MAX])
    return f"{len(names)} hosts have a certificate of the old CA: {told}{more}."


def _tell(what: str, authority: CertificateAuthority) -> None:
    end = authority.certificate.not_valid_after_utc
    typer.echo(f"{what:<10} {authority.fingerprint}  until {end:%Y-%m-%d}")


def _fail(text: str) -> NoReturn:
    typer.echo(f"chronovisor {' '.join(sys.argv[1:3])}: {text}", err=True)
    raise typer.Exit(ERROR)
