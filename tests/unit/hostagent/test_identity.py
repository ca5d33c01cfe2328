"""What tells a machine from others, and a boot from another."""

from pathlib import Path

import pytest

from hostagent.identity import UnknownMachineError, read_boot_id, read_hardware_id


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_dmi_uuid_goes_first(tmp_path: Path) -> None:
    dmi = written(tmp_path / "product_uuid", "4C4C4544-0042-3510-8052-B4C04F4E4D32\n")
    machine = written(tmp_path / "machine-id", "a" * 32)

    assert read_hardware_id((dmi, machine)) == "4c4c4544-0042-3510-8052-b4c04f4e4d32"


@pytest.mark.parametrize("nothing", ["", "00000000-0000-0000-0000-000000000000"])
def test_a_meaningless_uuid_is_passed_over(tmp_path: Path, nothing: str) -> None:
    dmi = written(tmp_path / "product_uuid", nothing)
    machine = written(tmp_path / "machine-id", "b" * 32)

    hardware = read_hardware_id((dmi, tmp_path / "missing", machine))

    assert len(hardware) == 64
    assert "b" * 32 not in hardware, "a machine id is confidential"


def test_a_machine_without_any_id_has_to_be_given_one(tmp_path: Path) -> None:
    with pytest.raises(UnknownMachineError):
        read_hardware_id((tmp_path / "missing",))


def test_the_boot_id_is_the_kernels(tmp_path: Path) -> None:
    assert read_boot_id(written(tmp_path / "boot_id", "b-1\n")) == "b-1"
    assert read_boot_id() == read_boot_id()
    with pytest.raises(OSError, match="empty"):
        read_boot_id(written(tmp_path / "nothing", "\n"))
