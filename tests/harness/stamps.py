"""Stamps: what a running guest writes into its disk about itself, and how a second copy is found by
them.

A guest that is booted with the word `stamp` reads the OEM strings `chronovisor.incarnation=N` and
`chronovisor.first_host=ID` of its SMBIOS tables and puts a record into /stamps of its disk about
five times a second. Two copies that run at once cannot hide it: each puts its record into the first
free place, past all caches, so their records alternate, or where both hit the same place one's
counter has a gap (guest_files/stamper.c). The disk must be a copy of the guest's base disk, where
the room for the stamps is already laid out.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.harness.processes import HarnessError, run_command

RECORD_BYTES = 512
RECORDS_MAX = 16_384  # 54 minutes
FREE_RECORD = b"." * (RECORD_BYTES - 1) + b"\n"
STAMP_WORDS = 4


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """One record: which incarnation, on which first host, in which boot of the guest, its how
    manieth.
    """

    incarnation: int
    host: str
    boot: str
    counter: int

    @property
    def writer(self) -> tuple[int, str, str]:
        """Who wrote it: counters of one writer go up by one."""
        return (self.incarnation, self.host, self.boot)


def empty_stamp_file(path: Path) -> None:
    """Lay out the room for stamps: not zeros, which a qcow2 file would not allocate."""
    path.write_bytes(FREE_RECORD * RECORDS_MAX)


def read_stamps(disk: Path) -> list[Stamp]:
    """The stamps on a guest's qcow2 disk, in their order; nothing is mounted, the guest may even
    run.
    """
    with tempfile.TemporaryDirectory(prefix="cvt-stamps-") as folder:
        raw, stamps = Path(folder) / "disk.raw", Path(folder) / "stamps"
        # -U: a running QEMU holds the image's lock, and reading beside it is harmless here.
        run_command(["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", disk, raw])
        answer = run_command(["debugfs", "-R", f"dump /stamps {stamps}", raw])
        if not stamps.exists():
            message = (
                f"no stamps on {disk}: is it a copy of the guest's base disk?\n{answer.stderr}"
            )
            raise HarnessError(message)
        content = stamps.read_bytes()
    records = (
        content[start : start + RECORD_BYTES] for start in range(0, len(content), RECORD_BYTES)
    )
    return [_parse(record) for record in records if record != FREE_RECORD]


def _parse(record: bytes) -> Stamp:
    words = record.decode(errors="replace").split()
    if len(words) != STAMP_WORDS:
        message = f"a damaged stamp: {record[:80]!r}"
        raise HarnessError(message)
    incarnation, host, boot, counter = words
    return Stamp(incarnation=int(incarnation), host=host, boot=boot, counter=int(counter))


def assert_single_writer(stamps: Sequence[Stamp]) -> None:
    """Fail if two copies of the guest ran at once, or an older incarnation after a newer one.

    Within one boot of the guest the counter goes up by one, without a gap; once another boot has
    begun to write, no stamp of a former one follows; incarnations never fall. No stamps at all fail
    too: then nothing was shown.
    """
    assert stamps, "no stamps: the guest never ran with `stamp` on this disk"
    finished: set[tuple[int, str, str]] = set()
    previous: Stamp | None = None
    for place, stamp in enumerate(stamps):
        where = f"at record {place}: {previous} and then {stamp}"
        if previous is None or stamp.writer != previous.writer:
            assert stamp.writer not in finished, f"two copies wrote in turn, {where}"
            assert stamp.counter == 1, f"stamps are missing, {where}"
            if previous is not None:
                finished.add(previous.writer)
                older = stamp.incarnation < previous.incarnation
                assert not older, f"an older incarnation ran after a newer one, {where}"
        else:
            assert stamp.counter == previous.counter + 1, f"two copies or a lost stamp, {where}"
        previous = stamp
