"""A backup is taken while everything runs, life goes on, all is lost, and the backup is restored.

The hosts are the product's simulated ones with real agents: their machines live on as files while
the engine is lost, and are then told by nobody what happened.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace
from tests.system.product import PROJECT, Json, Product

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]
GIB = 1024**3
QUICK = "time_scale = 0.2\n"
PASSPHRASE = "correct horse battery staple\n"
Domains = dict[str, tuple[int, int]]
"""Of each VM that a machine runs: its incarnation and its process."""


class Life:
    """The first installation: what was there before the backup, and what came after it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.first = Product(workspace, "first", QUICK, hosts=2)
        self.backup = workspace.make_folder("backups", 0o700) / "first.cvb"
        self.passphrase = self.backup.with_suffix(".passphrase")
        self.passphrase.write_text(PASSPHRASE)
        self.vms: dict[str, str] = {}
        self.position = 0
        self.samples = 0
        self.running: Domains = {}

    def live(self) -> None:
        """Live through it all, up to the loss."""
        self.first.start()
        for name in ("kept", "again", "ended", "later", "waits", "roams"):
            self._create(name, disk=name != "roams")
        for name in ("kept", "again", "ended", "roams"):
            self._act(name, "start")
        wait_until(lambda: self._count_samples() > 0, what="samples in the warehouse")
        self._back_up()
        for name, verb in (
            *(("again", "stop"), ("again", "start"), ("ended", "stop"), ("later", "start")),
            *(("roams", "stop"), ("roams", "start")),
        ):
            self._act(name, verb)
        self._create("unheard", disk=True)
        self._act("unheard", "start")
        self.first.kill_everything()
        self.running = domains(self.first.root)

    def _create(self, name: str, *, disk: bool) -> None:
        body: Json = {"name": name, "cluster": self.first.cluster()}
        answer = self.first.post(
            "/v1/vms", body | ({"disks": [{"size_bytes": GIB}]} if disk else {})
        )
        if "operation" in answer:
            assert self.first.finish(answer)["status"] == "succeeded"
        self.vms[name] = str(answer["id"])

    def _act(self, name: str, verb: str) -> None:
        ended = self.first.finish(self.first.post(f"/v1/vms/{self.vms[name]}/{verb}"))
        assert ended["status"] == "succeeded", (name, verb, ended)

    def _count_samples(self) -> int:
        return int(self.first.history("select count(*) from vm_samples")[0][0])

    def _back_up(self) -> None:
        self.samples = self._count_samples()
        sealed = ("--passphrase-file", str(self.passphrase))
        done = command("backup", str(self.backup), "--dir", str(self.first.root), *sealed)
        assert done.returncode == 0, done.stderr
        done = command("verify", str(self.backup), *sealed)
        assert done.returncode == 0, done.stderr
        self.position = int(self.first.get("/v1/health")["head"])


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the CLI."""
    return subprocess.run(
        [sys.executable, "-m", "chronovisor.cli.main", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def domains(root: Path) -> Domains:
    """Return what the machines of an installation's simulated hosts run."""
    found: Domains = {}
    for machine in sorted(root.glob("hosts/simulated/*/machine/machine.json")):
        for vm, domain in json.loads(machine.read_bytes())["domains"].items():
            assert vm not in found, f"VM {vm} runs twice"
            found[vm] = (domain["incarnation"], domain["process"])
    return found


@pytest.fixture(scope="module")
def life(workspace: Workspace) -> Iterator[Life]:
    """A life that is over; all that is left are the hosts and the backup."""
    life = Life(workspace)
    try:
        life.live()
        yield life
    finally:
        life.first.stop()


def restored_product(life: Life, name: str) -> Product:
    """Restore the backup into a folder of its own, with the hosts as they live on."""
    product = Product(life.workspace, name, hosts=0)
    shutil.rmtree(product.root)
    sealed = ("--passphrase-file", str(life.passphrase))
    done = command("restore", str(life.backup), "--dir", str(product.root), *sealed)
    assert done.returncode == 0, done.stderr
    assert "2 have to report" in done.stdout
    shutil.copytree(life.first.root / "hosts", product.root / "hosts")
    return product


def hosts_of(product: Product) -> list[Json]:
    """Return both hosts as the inventory shows them."""
    return [product.get(f"/v1/hosts/{one['id']}") for one in product.items("/v1/hosts")]


def test_a_restored_backup_finds_the_hosts_again_and_harms_no_vm(life: Life) -> None:
    product = restored_product(life, "second")
    vms = life.vms
    # First without the hosts: nothing is known of them, and nothing is done to them.
    product.start()
    try:
        wait_until(lambda: len(product.items("/v1/vms")) == 6, what="the inventory")
        assert {host["status"] for host in hosts_of(product)} == {"non_responsive"}
        assert "restored from a backup" in hosts_of(product)[0]["status_reason"]
        assert product.get(f"/v1/vms/{vms['kept']}")["status"] == "unknown"
        for name, verb in (("later", "start"), ("kept", "stop"), ("waits", "start")):
            answer = product.http.post(f"/v1/vms/{vms[name]}/{verb}", json={})
            assert answer.status_code == httpx.codes.CONFLICT, answer.text
        assert product.http.delete(f"/v1/vms/{vms['later']}").status_code == httpx.codes.CONFLICT
        fresh = product.post("/v1/vms", {"name": "fresh", "cluster": product.cluster()})["id"]
        start = product.post(f"/v1/vms/{fresh}/start")["operation"]["id"]
        wait_until(
            lambda: "restored from a backup" in product.http.get(f"/v1/operations/{start}").text,
            what="the start to say what it waits for",
        )
        assert product.stop() == 0
        assert domains(product.root) == life.running
    finally:
        product.stop()
    _then_with_the_hosts(life, product, fresh, start)


def _then_with_the_hosts(life: Life, product: Product, fresh: str, start: str) -> None:
    vms = life.vms
    product.run_hosts(2)
    product.start()
    try:
        for host in product.items("/v1/hosts"):
            product.await_status(f"/v1/hosts/{host['id']}", "up")
        for name in ("kept", "again", "later", "roams"):
            shown = product.await_status(f"/v1/vms/{vms[name]}", "up")
            assert shown["incarnation"] == life.running[vms[name]][0], name
        product.await_status(f"/v1/vms/{vms['ended']}", "down")
        assert product.get(f"/v1/vms/{vms['waits']}")["status"] == "down"
        # What the log lost is shown to an admin, and not touched.
        wait_until(
            lambda: any(
                vms["unheard"] in domain
                for host in hosts_of(product)
                for domain in host["unmanaged_domains"]
            ),
            what="the VM that the log does not know to be shown",
        )
        # The start that waited goes on, with a number that was never given out.
        wait_until(
            lambda: product.get(f"/v1/operations/{start}")["status"] == "succeeded",
            what="the waiting start to go on",
        )
        now = domains(product.root)
        assert {vm: now[vm] for vm in life.running} == life.running
        assert set(now) == {*life.running, fresh}
        assert now[fresh][0] > 1_000_000
        _lives_on(life, product)
        assert product.stop() == 0
    finally:
        product.stop()


def _lives_on(life: Life, product: Product) -> None:
    """The restored installation works: what was adopted can be stopped and started again."""
    vm = life.vms["again"]
    for verb in ("stop", "start"):
        assert product.finish(product.post(f"/v1/vms/{vm}/{verb}"))["status"] == "succeeded"
    assert product.await_status(f"/v1/vms/{vm}", "up")["incarnation"] > 1_000_000
    wait_until(lambda: product.get("/v1/health")["ok"] is True, what="every part to be well")
    wait_until(
        lambda: product.history("select count(*) from events")[0][0] > life.position,
        what="the warehouse to be seeded anew",
    )
    assert product.history("select count(*) from seeds")[0][0] == 2
    assert product.history("select count(*) from vm_samples")[0][0] >= life.samples
    named = product.items("/v1/events", search="restored")
    assert any(one["name"] == "LOG_RESTORED" for one in named), named


def test_an_altered_backup_is_refused_by_verify_and_restore(life: Life) -> None:
    content = bytearray(life.backup.read_bytes())
    content[len(content) // 3] ^= 0x10
    altered = life.backup.with_name("altered.cvb")
    altered.write_bytes(content)
    cut = life.backup.with_name("cut.cvb")
    cut.write_bytes(life.backup.read_bytes()[:-100])
    target = life.backup.with_name("target")
    for file in (altered, cut):
        assert command("verify", str(file)).returncode == 3
        refused = command("restore", str(file), "--dir", str(target))
        assert refused.returncode == 3, refused.stderr
        assert "Traceback" not in refused.stderr
        assert not target.exists()


def test_secrets_that_are_sealed_need_the_passphrase(life: Life) -> None:
    token = life.first.folder.admin_token.read_bytes().strip()
    assert token not in life.backup.read_bytes()
    target = life.backup.with_name("target")
    refused = command("restore", str(life.backup), "--dir", str(target))
    assert refused.returncode == 3
    assert "passphrase" in refused.stderr
    assert not target.exists()


def test_nothing_that_is_there_is_replaced(life: Life) -> None:
    sealed = ("--passphrase-file", str(life.passphrase))
    began = time.time()
    refused = command("restore", str(life.backup), "--dir", str(life.first.root), *sealed)
    assert refused.returncode == 1
    assert "never replaces" in refused.stderr
    assert life.first.folder.admin_token.stat().st_mtime < began
