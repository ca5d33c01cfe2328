"""The commands that make, check and bring back backups. They work on this machine, not over HTTP.

Imports are inside of the functions, so that other commands of the CLI start quickly.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from chronovisor.backup_format import BackupError, BrokenBackupError, Scope, SecretsSealedError
from chronovisor.cli.exits import Exit

if TYPE_CHECKING:
    from chronovisor.backup_format import Manifest

FolderOption = Annotated[Path, typer.Option("--dir", help="The installation's folder.")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]
ScopeOption = Annotated[
    list[Scope] | None,
    typer.Option("--scope", help="What to take: everything, or only some.", show_default=False),
]
PassphraseOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", help="A file whose text seals the secrets; '/dev/stdin' reads it."
    ),
]
_HERE = Path("var")
_PROGRESS_INTERVAL_S = 1.0
_MIB = 1024 * 1024


def register(app: typer.Typer) -> None:
    """Add the commands to the CLI."""
    app.command("backup")(backup)
    app.command("verify")(verify)
    app.command("restore")(restore)


def backup(
    file: FileArgument,
    folder: FolderOption = _HERE,
    scope: ScopeOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Write a backup of this installation into one new file, while everything runs.

    Scopes: `log` (all events, and what follows from them), `files` (secrets, CA, settings),
    `history` (the warehouse, and whom the notifier has told), `all`. Without a passphrase the file
    is as secret as the installation's keys: its secrets lie open in it.
    """
    from chronovisor.backup import make_backup
    from chronovisor.backup_seal import read_passphrase
    from chronovisor.installation import Installation
    from chronovisor.settings import SettingsError

    try:
        passphrase = read_passphrase(passphrase_file) if passphrase_file else None
        installation = Installation.open(folder)
        manifest = make_backup(
            installation,
            file,
            scopes=tuple(scope or ()),
            passphrase=passphrase,
            progress=_teller(),
        )
    except (BackupError, SettingsError) as error:
        _fail("backup", error)
    _describe(manifest)
    if passphrase is None and Scope.FILES in manifest.scopes:
        typer.echo("note: the secrets lie open in the file; --passphrase-file seals them", err=True)
    typer.echo(f"{file}: {file.stat().st_size / _MIB:.1f} MiB")


def verify(
    file: FileArgument,
    passphrase_file: PassphraseOption = None,
    checksums_only: Annotated[  # noqa: FBT002 - typer makes a flag of it
        bool,
        typer.Option("--checksums-only", help="Do not decode events and rows; only compare."),
    ] = False,
) -> None:
    """Check that a backup is whole, unaltered, and holds together.

    Exit code 0: it is; 3: it is not, or the passphrase is another; 1: it could not be checked.
    """
    from chronovisor.backup_file import BackupReader
    from chronovisor.backup_seal import read_passphrase
    from chronovisor.backup_verify import sealer_of
    from chronovisor.backup_verify import verify as check

    try:
        passphrase = read_passphrase(passphrase_file) if passphrase_file else None
        with BackupReader(file) as reader:
            sealer = sealer_of(reader, passphrase)
            found = check(reader, sealer=sealer, deep=not checksums_only, progress=_teller())
            manifest = reader.manifest
    except BackupError as error:
        _fail("verify", error)
    _describe(manifest)
    if Scope.FILES in manifest.scopes and not found.secrets_opened:
        typer.echo("note: the secrets are sealed and were not opened: no passphrase", err=True)
    typer.echo(f"{file}: whole and unaltered, {found.parts} parts")


def restore(
    file: FileArgument,
    folder: FolderOption = _HERE,
    scope: ScopeOption = None,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Restore a backup into a folder (and database) where there is nothing yet.

    The backup is verified first. The log comes back under a new id, so that everything that follows
    it begins anew. No order goes to a host, and nothing is started that a host may be running,
    until the host has reported what it runs, or `host confirm-state` or `host confirm-off` vouches
    for it. Never restore while the installation that was backed up still runs.
    """
    from chronovisor.backup_restore import restore_backup
    from chronovisor.backup_seal import read_passphrase
    from chronovisor.settings import SettingsError

    try:
        passphrase = read_passphrase(passphrase_file) if passphrase_file else None
        restored = restore_backup(
            file,
            folder,
            scopes=tuple(scope or ()),
            passphrase=passphrase,
            progress=_teller(),
        )
    except (BackupError, SettingsError) as error:
        _fail("restore", error)
    typer.echo(f"restored  {', '.join(restored.scopes)} into {folder}")
    if restored.log is not None:
        typer.echo(f"log       {restored.log.log_id}, up to position {restored.log.position}")
        typer.echo(f"hosts     {restored.log.hosts} have to report before they get orders")
    for sentence in restored.left_out:
        typer.echo(f"left out  {sentence}", err=True)


def _describe(manifest: Manifest) -> None:
    """Say what a backup holds."""
    typer.echo(f"made      {manifest.created_at:%Y-%m-%d %H:%M:%S} UTC on {manifest.host}")
    if manifest.log is not None:
        typer.echo(f"log       {manifest.log.log_id}, up to position {manifest.log.position}")
    if Scope.FILES in manifest.scopes:
        sealed = "sealed" if manifest.sealing is not None else "open"
        typer.echo(f"files     secrets ({sealed}) and settings")
    if manifest.history is not None:
        rows = sum(table.rows for table in manifest.history.tables)
        typer.echo(f"history   {rows} rows, events up to position {manifest.history.position}")
    for sentence in manifest.left_out:
        typer.echo(f"left out  {sentence}", err=True)


def _teller() -> Callable[[str, int], None]:
    """Return what shows progress on standard error, where a person looks at it."""
    if not sys.stderr.isatty():
        return lambda _part, _done: None
    told = [0.0]

    def tell(part: str, done: int) -> None:
        now = time.monotonic()
        if now - told[0] >= _PROGRESS_INTERVAL_S:
            told[0] = now
            amount = f"{done}" if part.startswith("events") else f"{done / _MIB:.1f} MiB"
            typer.echo(f"  {part:<32} {amount}", err=True)

    return tell


def _fail(command: str, error: Exception) -> NoReturn:
    refused = isinstance(error, BrokenBackupError | SecretsSealedError)
    typer.echo(f"chronovisor {command}: {error}", err=True)
    raise typer.Exit(Exit.REFUSED if refused else Exit.ERROR)
