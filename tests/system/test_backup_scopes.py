"""Each scope of a backup by itself, by the CLI: made while all runs, and put into a used folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace
from tests.system.product import Product
from tests.system.test_backup import PASSPHRASE, command

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
SCOPES = ("files", "log", "history")
"""In the order in which they are restored."""
FILES = ("admin.token", "engine.secret", "ca", "certificates", "ssh", "chronovisor.toml")


class Site:
    """An installation that was backed up in three parts while it ran, and is stopped."""

    def __init__(self, workspace: Workspace) -> None:
        self.product = Product(workspace, "scopes", "time_scale = 0.2\n")
        self.folder = workspace.make_folder("scoped", 0o700)
        self.backups = {scope: self.folder / f"{scope}.cvb" for scope in SCOPES}
        passphrase = self.folder / "passphrase"
        passphrase.write_text(PASSPHRASE)
        self.sealed = ("--passphrase-file", str(passphrase))
        self.vm = ""
        self.samples = self.position = 0

    def live(self) -> None:
        product = self.product
        product.start()
        cluster = product.cluster()
        self.vm = str(product.post("/v1/vms", {"name": "kept", "cluster": cluster})["id"])
        assert product.finish(product.post(f"/v1/vms/{self.vm}/start"))["status"] == "succeeded"
        wait_until(lambda: self.count("vm_samples") > 0, 30, "samples in the warehouse")
        self.samples = self.count("vm_samples")
        for scope, path in self.backups.items():
            sealed = self.sealed if scope == "files" else ()
            where = ("--dir", str(product.root), "--scope", scope)
            done = command("backup", str(path), *where, *sealed)
            assert done.returncode == 0, done.stderr
        self.position = int(product.get("/v1/health")["head"])
        assert product.stop() == 0

    def count(self, table: str) -> int:
        return int(self.product.history(f"select count(*) from {table}")[0][0])

    def restore(self, scope: str, root: Path) -> None:
        """Restore a scope, which verifies the file first."""
        where = ("--dir", str(root), "--scope", scope)
        sealed = self.sealed if scope == "files" else ()
        done = command("restore", str(self.backups[scope]), *where, *sealed)
        assert done.returncode == 0, (scope, done.stderr)


@pytest.fixture(scope="module")
def site(workspace: Workspace) -> Iterator[Site]:
    site = Site(workspace)
    try:
        site.live()
        yield site
    finally:
        site.product.stop()


def test_what_was_lost_comes_back_into_the_folder_that_is_used(site: Site, tmp_path: Path) -> None:
    """First the history alone, then the files alone: all else stays, and goes on."""
    product, root = site.product, site.product.root
    shutil.rmtree(product.folder.warehouse)
    shutil.rmtree(product.folder.notifier)
    site.restore("history", root)
    for name in FILES:
        shutil.move(root / name, tmp_path / name)
    site.restore("files", root)
    for name in FILES:
        assert_same(tmp_path / name, root / name)

    product.start()
    try:
        shown = product.await_status(f"/v1/vms/{site.vm}", "up")
        assert shown["name"] == "kept"
        (host,) = product.items("/v1/hosts")
        product.await_status(f"/v1/hosts/{host['id']}", "up")
        wait_until(lambda: product.get("/v1/health")["ok"] is True, 30, "every part to be well")
        assert site.count("vm_samples") >= site.samples
        assert site.count("seeds") == 1, "the log is the same one"
    finally:
        assert product.stop() == 0


def test_three_parts_one_after_the_other_are_an_installation(
    site: Site, workspace: Workspace
) -> None:
    product = Product(workspace, "parts", hosts=0)
    (product.root / "chronovisor.toml").unlink()
    (product.root / "notes.txt").write_text("the folder is used")
    for scope in SCOPES:
        site.restore(scope, product.root)
        assert not list(product.root.glob(".restoring-*"))
    assert (product.root / "notes.txt").exists()
    assert product.folder.admin_token.read_bytes() == site.product.folder.admin_token.read_bytes()
    shutil.copytree(site.product.folder.hosts, product.folder.hosts)
    product.run_hosts(1)
    product.start()
    try:
        (host,) = product.items("/v1/hosts")
        product.await_status(f"/v1/hosts/{host['id']}", "up")
        product.await_status(f"/v1/vms/{site.vm}", "up")
        wait_until(
            lambda: product.history("select count(*) from seeds")[0][0] == 2,
            30,
            "the warehouse to be seeded anew, from a log of another id",
        )
        assert int(product.get("/v1/health")["head"]) > site.position
        assert product.history("select count(*) from vm_samples")[0][0] >= site.samples
    finally:
        assert product.stop() == 0


def assert_same(one: Path, other: Path) -> None:
    if one.is_file():
        assert one.read_bytes() == other.read_bytes(), other
        return
    assert sorted(path.name for path in one.iterdir()) == sorted(
        path.name for path in other.iterdir()
    )
    for path in one.iterdir():
        assert_same(path, other / path.name)
