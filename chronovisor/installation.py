"""An installation: its folder, its settings, its secrets, and where its database is."""

from __future__ import annotations

import errno
import ipaddress
import os
import stat
from pathlib import Path

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict

from access.certificates import CertificateAuthority
from access.files import make_private_folder, read_bounded, write_atomically
from access.secrets import EngineSecret
from access.ssh_key import SshKey
from access.tokens import ensure_admin_token
from access.trust import ServerFiles, ensure_server_files
from chronovisor.contexts import now
from chronovisor.embedded_postgres import EmbeddedPostgres
from chronovisor.folder import Folder
from chronovisor.settings import Settings, SettingsError, load

LOOPBACK_NAMES = ("localhost",)
LOOPBACK_ADDRESSES = ("127.0.0.1", "::1")


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """Where the engine listens; written by the engine, for who shares its folder."""

    pid: int
    api: str
    gateway: str


class Installation:
    """What every process of the product begins with."""

    def __init__(self, folder: Folder, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings

    @classmethod
    def open(cls, root: Path) -> Installation:
        """Read the settings of a folder; raises SettingsError."""
        folder = Folder(root)
        return cls(folder, load(folder.root))

    @property
    def embedded(self) -> bool:
        """Whether PostgreSQL is the embedded one."""
        return self.settings.database.dsn_file is None

    def postgres(self) -> EmbeddedPostgres:
        """Return the embedded PostgreSQL (whether or not it runs)."""
        return EmbeddedPostgres(self.folder.postgres)

    def dsn(self) -> str:
        """Return how to connect to the database; raises SettingsError."""
        file = self.settings.database.dsn_file
        if file is None:
            return self.postgres().dsn
        try:
            text = read_bounded(file).decode().strip()
        except (OSError, ValueError) as error:
            message = f"the file of setting database.dsn_file cannot be read: {error}"
            raise SettingsError(message) from error
        if not _is_connection_string(text):
            # Nothing of it is told: it may be a password.
            message = (
                f"the file of setting database.dsn_file, {file}, holds no connection string, such "
                "as 'host=db dbname=chronovisor user=chronovisor passfile=/etc/chronovisor.pgpass'"
            )
            raise SettingsError(message)
        return text

    def prepare(self) -> None:
        """Make what an installation needs before its first start: folders, secrets, its CA.

        Raises OSError, or ValueError where something that is there is damaged.
        """
        try:
            self._prepare()
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise OSError(
                    error.errno, "no space is left, free some", str(self.folder.root)
                ) from error
            raise

    def _prepare(self) -> None:
        make_private_folder(self.folder.root)
        self.prepare_sockets()
        ensure_admin_token(self.folder.admin_token)
        EngineSecret.load_or_create(self.folder.secret)
        SshKey.load_or_create(self.folder.ssh)
        CertificateAuthority.load_or_create(self.folder.authority, now())

    def prepare_sockets(self) -> None:
        """Make the folder of the Unix sockets, ours alone; raises PermissionError if it is not."""
        place = self.folder.sockets
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = place.lstat()
        private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
        if status.st_uid != os.geteuid() or not private:
            message = f"{place} must be a folder that only this user can enter"
            raise PermissionError(message)

    def server_files(self) -> ServerFiles:
        """Return the API's and gateway's certificate, issued anew where it no longer serves."""
        names, addresses = [*LOOPBACK_NAMES], [*LOOPBACK_ADDRESSES]
        wanted = (
            *self.settings.api.names,
            self.settings.api.host,
            self.settings.gateway.host,
            self.settings.gateway.address,
        )
        for name in wanted:
            if name in {"", "0.0.0.0", "::"}:  # noqa: S104 - these are not served, but left out
                continue
            target = addresses if _is_address(name) else names
            if name not in target:
                target.append(name)
        return ensure_server_files(
            self.folder.authority, self.folder.certificates, "engine", names, addresses, now()
        )

    def write_addresses(self, addresses: Addresses) -> None:
        """Say where the engine listens."""
        write_atomically(self.folder.addresses, msgspec.json.encode(addresses))

    def read_addresses(self) -> Addresses | None:
        """Return where the engine listens, None if it has not said so."""
        try:
            return msgspec.json.decode(self.folder.addresses.read_bytes(), type=Addresses)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None


def _is_connection_string(text: str) -> bool:
    try:
        return bool(conninfo_to_dict(text))
    except psycopg.Error:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
