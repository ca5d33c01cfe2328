"""What lies where in the installation's folder, DIR."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

SOCKET_PATH_BYTES_MAX = 100
"""Unix sockets' paths end at 107 bytes; some room is left for suffixes."""


class Folder:
    """Names the files of an installation."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.admin_token = self.root / "admin.token"
        self.secret = self.root / "engine.secret"
        self.authority = self.root / "ca"
        self.certificates = self.root / "certificates"
        self.ssh = self.root / "ssh"
        self.agent = self.root / "agent"
        self.postgres = self.root / "postgres"
        self.warehouse = self.root / "warehouse"
        self.notifier = self.root / "notifier"
        self.hosts = self.root / "hosts"
        self.addresses = self.root / "addresses.json"

    @property
    def sockets(self) -> Path:
        """The folder of the Unix sockets: in DIR, or, where that is too long, under /tmp."""
        inside = self.root / "run"
        if len(str(inside).encode()) <= SOCKET_PATH_BYTES_MAX - len("/telemetry.sock"):
            return inside
        name = hashlib.sha256(str(self.root).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"chronovisor-{name}"

    @property
    def telemetry_socket(self) -> Path:
        """Where the warehouse takes samples."""
        return self.sockets / "telemetry.sock"

    @property
    def query_socket(self) -> Path:
        """Where the warehouse answers queries."""
        return self.sockets / "query.sock"

    @property
    def warehouse_copy_socket(self) -> Path:
        """Where the warehouse hands out copies of itself, for backups."""
        return self.sockets / "dwh-copy.sock"

    @property
    def notifier_copy_socket(self) -> Path:
        """Where the notifier hands out copies of its memory, for backups."""
        return self.sockets / "told-copy.sock"

    @property
    def agent_socket(self) -> Path:
        """Where the agent of a real host on this machine serves health and metrics."""
        return self.sockets / "agent.sock"

    @property
    def fleet_socket(self) -> Path:
        """Where the simulated hosts' process serves health and metrics."""
        return self.sockets / "fleet.sock"
