"""What is wrong at the start is said in one line, and harms nothing that is there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.processes import wait_until
from tests.harness.workspace import Workspace
from tests.system.product import PROJECT, Product
from tests.system.small_disk import SmallDisk

pytestmark = pytest.mark.timeout(240)
QUICK = "time_scale = 0.2\n"
LINE_CHARACTERS_MAX = 700
SECRET = "s3cr3t-and-long"


@pytest.fixture(scope="module")
def used(workspace: Workspace) -> Path:
    """The folder of an installation that ran and was stopped."""
    product = Product(workspace, "used", QUICK, hosts=1)
    product.start()
    assert product.stop() == 0
    shutil.rmtree(product.root / "run")
    return product.root


@pytest.fixture
def copy(used: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fault")
    subprocess.run(["cp", "-a", f"{used}/.", str(folder)], check=True)
    return folder


def refusal(folder: Path, *arguments: str) -> str:
    """Return what `up` says where it cannot: one line, and no more."""
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "chronovisor.cli.main", "up", "--dir", str(folder)),
            *("--port", "0", *arguments),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout
    said = ended.stderr.strip()
    assert said.startswith("chronovisor up: ")
    assert len(said.splitlines()) == 1, said
    assert len(said) < LINE_CHARACTERS_MAX, said
    assert "Traceback" not in ended.stdout + said
    return said


def _write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_write("postgres/data/PG_VERSION", b"17\n"), ("PostgreSQL 17", "brings 18", "dump it")),
        (_write("postgres/data/global/pg_control", b"x"), ("pg_control", "cannot be started")),
        (lambda folder: (folder / "postgres/passwords").unlink(), ("passwords", "backup")),
        (_write("warehouse/warehouse.duckdb", b"x" * 5_000), ("warehouse", "cannot be opened")),
        (_write("notifier/notifier.sqlite", b"x" * 5_000), ("notifier.sqlite",)),
        (_write("admin.token", b""), ("admin.token", "does not hold a token")),
        (_write("engine.secret", b"no"), ("engine.secret",)),
        (_write("chronovisor.toml", b"[[["), ("chronovisor.toml", "line 1")),
        (_write("chronovisor.toml", b"[gateway]\nport = 70000\n"), ("port", "65535")),
        (_write("chronovisor.toml", b'[notifier]\nfilter = "x"\n'), ("notifier", "include:")),
        (_write("chronovisor.toml", b'[api]\nhost = "192.0.2.1"\n'), ("192.0.2.1",)),
        (
            _write(
                "chronovisor.toml",
                b'[notifier.smtp]\nserver="m"\nuser="u"\npassword_file="/no/such"\n',
            ),
            ("mail", "/no/such"),
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_up_says_what_is_damaged_or_wrong(
    copy: Path, damage: Callable[[Path], object], words: tuple[str, ...]
) -> None:
    damage(copy)
    said = refusal(copy)
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("cannot be read", "No such file")),
        (b"", ("holds no connection string",)),
        (SECRET.encode(), ("holds no connection string",)),
        (b"\xff\xfe", ("cannot be read",)),
        (b"x" * 2**21, ("larger than",)),
        (
            b"host=127.0.0.1 port=9 dbname=c user=u password=" + SECRET.encode(),
            ("cannot be reached", "Connection refused"),
        ),
    ],
    ids=["missing", "empty", "nonsense", "binary", "huge", "nobody there"],
)
def test_up_says_what_is_wrong_with_the_database_file(
    tmp_path: Path, content: bytes | None, words: tuple[str, ...]
) -> None:
    file = tmp_path / "dsn"
    if content is not None:
        file.write_bytes(content)
    (tmp_path / "chronovisor.toml").write_text(f'{QUICK}[database]\ndsn_file = "{file}"\n')
    said = refusal(tmp_path)
    assert SECRET not in said
    for word in words:
        assert word in said


def test_up_names_the_disk_that_is_full_and_starts_once_there_is_room(
    workspace: Workspace,
) -> None:
    product = Product(workspace, "full", hosts=0)
    with SmallDisk(workspace, product.root, 700) as disk:
        disk.fill()
        said = refusal(product.root, "--hosts", "0")
        assert "space" in said
        assert str(product.root) in said
        disk.free()
        product.start()
        try:
            assert product.get("/v1/health")["ok"]
        finally:
            assert product.stop() == 0
        disk.fill()
        said = refusal(product.root, "--hosts", "0")
        assert "space" in said or "0 MiB are free" in said
        disk.free()
        product.start()
        assert product.stop() == 0


def test_a_part_that_is_stuck_is_named_and_the_others_go_on(workspace: Workspace) -> None:
    """A warehouse that somebody damages meanwhile takes nothing else down."""
    product = Product(workspace, "stuck", QUICK, hosts=1)
    product.start()
    try:
        (product.root / "warehouse" / "warehouse.duckdb").write_bytes(b"x" * 5_000)
        (product.root / "warehouse" / "warehouse.duckdb.wal").unlink(missing_ok=True)
        product.kill("dwh")
        vm = product.post("/v1/vms", {"name": "on", "cluster": product.cluster()})["id"]
        assert product.finish(product.post(f"/v1/vms/{vm}/start"))["status"] == "succeeded"
        wait_until(lambda: not product.get("/v1/health")["ok"], 20, "health to tell of it")
        states = {one["part"]: one["state"] for one in product.get("/v1/health")["parts"]}
        assert states["dwh"] != "up"
        assert states["engine"] == "up"
        wait_until(
            lambda: "cannot be opened" in product.output.read_text(), 20, "the reason to be told"
        )
    finally:
        product.stop()
