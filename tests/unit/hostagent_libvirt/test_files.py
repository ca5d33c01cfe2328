"""The storage folder: never left, never overwritten, never believed."""

import asyncio
import os
import stat
import struct
from pathlib import Path

import pytest

from events.types.run_spec import Disk
from hostagent.driver import DriverError
from hostagent.libvirt_images import Images, inspect
from hostagent.libvirt_storage import (
    SAVED_MAGIC,
    UNFINISHED_MAGIC,
    Storage,
    image_format,
    partial_of,
    put_in_place,
    read_qcow2,
)
from tests.conftest import require
from tests.harness.processes import run_command

MIB = 1024 * 1024


def qcow2(*, backing: int = 0, bits: int = 0, version: int = 3, size: int = 5 * MIB) -> bytes:
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", version, backing, 0, 16, size)
    return head.ljust(72, b"\0") + struct.pack(">Q", bits) + bytes(24)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    folder = tmp_path / "storage"
    folder.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    return Storage(folder)


class TestPaths:
    def test_links_that_lead_outside_are_refused(self, storage: Storage, tmp_path: Path) -> None:
        (storage.folder / "link").symlink_to(tmp_path / "outside/secret")
        (storage.folder / "folder").symlink_to(tmp_path / "outside")
        for name in ("link", "folder/secret", "folder/new"):
            with pytest.raises(DriverError, match="leads out"):
                storage.path(name)
            with pytest.raises(DriverError):
                storage.existing(name)
            with pytest.raises(DriverError):
                storage.whole_size(name)

    def test_links_that_stay_inside_are_followed(self, storage: Storage) -> None:
        (storage.folder / "real").mkdir()
        (storage.folder / "real/file").write_bytes(b"1234")
        (storage.folder / "alias").symlink_to("real")
        assert storage.whole_size("alias/file") == 4

    def test_a_missing_file_is_missing_and_stays_so(self, storage: Storage) -> None:
        for ask in (storage.existing, storage.check_disk):
            with pytest.raises(DriverError, match="missing"):
                ask("volumes/none.qcow2")
        assert storage.whole_size("volumes/none.qcow2") is None
        assert list(storage.folder.iterdir()) == []


class TestRemoval:
    def test_a_file_and_what_is_half_made_of_it_go(self, storage: Storage) -> None:
        path = storage.folder / "a"
        path.write_bytes(b"1")
        partial_of(path).write_bytes(b"2")
        storage.remove("a")
        storage.remove("a")
        storage.remove("folder/that/is/not/there")
        assert list(storage.folder.iterdir()) == []

    def test_a_folder_goes_with_its_last_file(self, storage: Storage) -> None:
        (storage.folder / "vm/deep").mkdir(parents=True)
        for name in ("vm/deep/a", "vm/b"):
            (storage.folder / name).write_bytes(b"1")
        storage.remove("vm/deep/a")
        assert [path.name for path in (storage.folder / "vm").iterdir()] == ["b"]
        storage.remove("vm/b")
        assert list(storage.folder.iterdir()) == []
        assert storage.folder.is_dir()

    def test_a_link_goes_and_not_what_it_points_to(self, storage: Storage, tmp_path: Path) -> None:
        (storage.folder / "link").symlink_to(tmp_path / "outside/secret")
        storage.remove("link")
        assert (tmp_path / "outside/secret").read_bytes() == b"secret"
        assert not (storage.folder / "link").is_symlink()

    def test_nothing_outside_and_no_folder_goes(self, storage: Storage, tmp_path: Path) -> None:
        (storage.folder / "folder").symlink_to(tmp_path / "outside")
        (storage.folder / "volumes").mkdir()
        for name in ("folder/secret", "../outside/secret", "volumes", ""):
            with pytest.raises(DriverError):
                storage.remove(name)
        assert (tmp_path / "outside/secret").exists()
        assert (storage.folder / "volumes").is_dir()


class TestHeaders:
    def test_a_real_file_is_read_as_qemu_reads_it(self, tmp_path: Path) -> None:
        require("qemu-img")
        path = tmp_path / "a.qcow2"
        for options in ([], ["-o", "compat=0.10"]):
            run_command(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, "7M"])
            header = read_qcow2(path.read_bytes()[:104])
            assert header is not None
            assert header.size_bytes == 7 * MIB
            assert not header.refers_to_others

    def test_references_are_seen(self) -> None:
        for header in (qcow2(backing=512), qcow2(bits=1 << 2), qcow2(backing=512, version=2)):
            found = read_qcow2(header)
            assert found is not None
            assert found.refers_to_others
        assert read_qcow2(b"QFI") is None

    def test_what_may_be_copied(self) -> None:
        assert image_format("a.qcow2", qcow2()) == "qcow2"
        assert image_format("a.img", qcow2()) == "qcow2"
        assert image_format("a.img", b"\0" * 104) == "raw"
        # said to be raw: whatever it begins with is content, and no header is believed
        assert image_format("a.raw", qcow2(backing=512)) == "raw"

    @pytest.mark.parametrize(
        ("name", "header"),
        [
            ("a.qcow2", b"\0" * 104),
            ("a.qcow2", qcow2(backing=512)),
            ("a.img", qcow2(bits=1 << 2)),
            ("a.img", qcow2(bits=1 << 1)),
            ("a.img", b"KDMV" + bytes(100)),
            ("a", b"conectix" + bytes(96)),
        ],
    )
    def test_what_may_not(self, name: str, header: bytes) -> None:
        with pytest.raises(DriverError):
            image_format(name, header)

    def test_sizes(self, storage: Storage) -> None:
        contents = {
            "disk": (qcow2(), 5 * MIB),
            "memory": (SAVED_MAGIC + bytes(500), 516),
            "unfinished": (UNFINISHED_MAGIC + bytes(500), None),
        }
        for name, (content, size) in contents.items():
            (storage.folder / name).write_bytes(content)
            assert storage.whole_size(name) == size
        assert storage.is_whole_memory(storage.folder / "memory")
        assert not storage.is_whole_memory(storage.folder / "unfinished")
        assert not storage.is_whole_memory(storage.folder / "none")

    def test_any_write_changes_the_version(self, storage: Storage) -> None:
        path = storage.folder / "disk"
        path.write_bytes(b"1")
        before = storage.version(path)
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
        assert storage.version(path) != before
        assert storage.version(storage.folder / "none") == ""


class TestPlacing:
    def test_a_name_that_is_taken_is_kept(self, tmp_path: Path) -> None:
        target = tmp_path / "a"
        target.write_bytes(b"old")
        partial_of(target).write_bytes(b"new")
        with pytest.raises(DriverError, match="not overwritten"):
            put_in_place(partial_of(target), target)
        assert target.read_bytes() == b"old"
        target.unlink()
        put_in_place(partial_of(target), target)
        assert target.read_bytes() == b"new"
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


def disk(volume: str = "volumes/a.qcow2", size: int = 8 * MIB, image: str | None = None) -> Disk:
    return Disk(id="d", name="d", size_bytes=size, volume=volume, image=image)


def ignore_progress(percent: int) -> None:
    pass


class TestImages:
    @pytest.fixture(autouse=True)
    def _components(self) -> None:
        require("qemu-img")

    async def test_an_empty_volume(self, storage: Storage) -> None:
        await Images(storage).create(disk(), ignore_progress)
        path = storage.check_disk("volumes/a.qcow2")
        assert storage.whole_size("volumes/a.qcow2") == 8 * MIB
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await inspect(path, "qcow2") == 8 * MIB

    async def test_what_is_there_is_kept(self, storage: Storage) -> None:
        (storage.folder / "volumes").mkdir()
        (storage.folder / "volumes/a.qcow2").write_bytes(b"precious")
        with pytest.raises(DriverError, match="not overwritten"):
            await Images(storage).create(disk(), ignore_progress)
        assert (storage.folder / "volumes/a.qcow2").read_bytes() == b"precious"

    async def test_a_left_over_does_not_matter(self, storage: Storage) -> None:
        partial = partial_of(storage.folder / "volumes/a.qcow2")
        partial.parent.mkdir()
        partial.write_bytes(b"rubbish" * 1000)
        await Images(storage).create(disk(), ignore_progress)
        assert not partial.exists()

    async def test_a_raw_image_is_copied_and_grown(self, storage: Storage) -> None:
        (storage.folder / "image.raw").write_bytes(os.urandom(2 * MIB))
        seen: list[int] = []
        await Images(storage).create(disk(image="image.raw"), seen.append)
        path = storage.check_disk("volumes/a.qcow2")
        assert await inspect(path, "qcow2") == 8 * MIB
        copied = storage.folder / "back.raw"
        run_command(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, copied])
        original = (storage.folder / "image.raw").read_bytes()
        assert copied.read_bytes()[: 2 * MIB] == original
        assert seen[-1] == 100
        assert seen == sorted(seen)

    async def test_qemu_also_looks_for_references(self, storage: Storage) -> None:
        """A second look: our reading of the header is not the only guard."""
        path = storage.folder / "a.qcow2"
        create: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"]
        run_command([*create, "-b", storage.folder.parent / "outside/secret", path, "1M"])
        with pytest.raises(DriverError, match="refers to another"):
            await inspect(path, "qcow2")

    async def test_the_same_volume_is_made_once_at_a_time(self, storage: Storage) -> None:
        images = Images(storage)
        outcomes = await asyncio.gather(
            *(images.create(disk(), ignore_progress) for _ in range(5)), return_exceptions=True
        )
        assert [type(each) for each in outcomes].count(type(None)) == 1
        assert sum(isinstance(each, DriverError) for each in outcomes) == 4
        assert storage.whole_size("volumes/a.qcow2") == 8 * MIB

    async def test_a_copy_that_nobody_wants_any_more_leaves_nothing(self, storage: Storage) -> None:
        with (storage.folder / "image.raw").open("wb") as image:
            image.truncate(64 * 1024 * MIB)
        copy = disk(image="image.raw", size=64 * 1024 * MIB)
        making = asyncio.create_task(Images(storage).create(copy, ignore_progress))
        while not partial_of(storage.folder / "volumes/a.qcow2").exists():
            await asyncio.sleep(0.005)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        assert list((storage.folder / "volumes").iterdir()) == []

    async def test_qemus_own_words_explain_a_failure(self, storage: Storage) -> None:
        (storage.folder / "image.qcow2").write_bytes(qcow2())
        with pytest.raises(DriverError, match=r"qemu-img|prlimit"):
            await Images(storage).create(disk(image="image.qcow2"), ignore_progress)
        assert storage.whole_size("volumes/a.qcow2") is None
