"""Audit records say what `str.format` makes of their messages, however they are put together."""

import types
import uuid
from string import Formatter

import pytest

from events.audit import _sentence, audit_record
from events.envelope import Recorded
from events.types import catalogue
from events.types.vm import DownReason, VmDown
from tests.unit.projections.history import START_TIME

MESSAGES = sorted(
    {audit.message for registered in catalogue.TYPES.values() for audit in registered.cls.audits}
)
ODD = [
    "",
    "100 % of {{it}}",
    "{name}: 50%s of {{{name}}} by {actor}",
    "{actor}",
    "{actor} and {actor} again",
    "{name!r} is {name:>20}",
    "{actor} gave {host_name} to {name}",
]


@pytest.mark.parametrize("message", [*MESSAGES, *ODD])
def test_a_message_is_filled_in_as_by_format(message: str) -> None:
    parts = list(Formatter().parse(message))
    names = {name.partition(".")[0] for _, name, _, _ in parts if name} - {"actor"}
    if any("%Y" in (given or "") for _, _, given, _ in parts):
        fields: dict[str, object] = dict.fromkeys(names, START_TIME)
    elif any((given or "").endswith(("f", "g")) for _, _, given, _ in parts):
        fields = dict.fromkeys(names, 2.5)
    elif any("." in (name or "") for _, name, _, _ in parts):
        fields = dict.fromkeys(names, VALUE)
    else:
        fields = {name: f"100% {name}" for name in names}
    event = types.SimpleNamespace(**fields)
    expected = message.format(**fields, actor="an %s admin")
    assert _sentence(message)(event, "an %s admin") == expected  # type: ignore[arg-type]


VALUE = types.SimpleNamespace(policy="p", action="a", mode="m", memory_percent=7)


def test_a_record_names_an_enumeration_by_its_value() -> None:
    down = VmDown(
        name="web01",
        host="h",
        host_name="host1",
        incarnation=1,
        reason=DownReason.CRASHED,
        detail="signal 6",
    )
    record = audit_record(
        Recorded(
            position=7,
            stream="vm/a",
            version=3,
            name="vm.down",
            event=down,
            time=START_TIME,
            actor="admin:bootstrap",
            command=uuid.UUID(int=1),
        )
    )
    assert record is not None
    assert record.message == "VM web01 is down with error on host host1 (crashed). signal 6"
