"""A VM shows which CPUs of its host are its own, and which will be where it is on its way to."""

from __future__ import annotations

import msgspec

from events.types import vm as vm_events
from events.types import vm_migration as m
from events.types.run_spec import RunSpec
from events.types.vm_tuning import CpuPin, Dedicated
from tests.unit.projections.history import History
from tests.unit.projections.test_views import vm


def own(cpu: str) -> Dedicated:
    return Dedicated(pins=(CpuPin(vcpu=0, cpus=cpu),), cpus=cpu)


def test_it_follows_the_vm_from_host_to_host() -> None:
    history = History()
    center = history.make_data_center("Berlin")
    where = history.make_cluster(center, "main")
    first, second = (history.make_host(center, where, name) for name in ("host1", "host2"))
    key = history.make_vm(center, where)
    history.ready(key)

    def shown() -> list[str | None]:
        document = vm(history, key)
        fields = (document["dedicated"], document["dedicated_at_destination"])
        return [None if each is None else each["cpus"] for each in fields]

    assert shown() == [None, None]
    history.placed(key, first)
    assert shown() == [None, None]
    placed = list(history.recorded())[-1].event
    assert isinstance(placed, vm_events.VmPlaced)
    spec: RunSpec = msgspec.structs.replace(placed.spec, dedicated=own("3"), incarnation=2)
    again = msgspec.structs.replace(placed, spec=spec, incarnation=2)
    history.add(f"vm/{key}", again)
    assert shown() == ["3", None]

    started = m.VmMigrationStarted(
        name="web01",
        incarnation=2,
        migration="m",
        host=first,
        host_name="host1",
        destination=second,
        destination_name="host2",
        dedicated=own("5"),
    )
    history.add(f"vm/{key}", started)
    assert shown() == ["3", "5"]
    dropped = m.VmMigrationDropped(name="web01", incarnation=2, destination=second)
    history.add(f"vm/{key}", dropped)
    assert shown() == ["3", None]
    history.add(f"vm/{key}", started)
    departed = m.VmMigrationDeparted(
        name="web01",
        incarnation=2,
        host=first,
        destination=second,
        destination_name="host2",
        reason=vm_events.DownReason.MIGRATED,
    )
    history.add(f"vm/{key}", departed)
    assert shown() == ["5", None]
    history.down(key, second, incarnation=2)
    assert shown() == [None, None]
