"""What waits for the engine is bounded, in order, and loses no fact that matters."""

import datetime as dt

from events.wire.agent import (
    REPORT_ITEMS_MAX,
    SAMPLES_MAX,
    FullStateItem,
    HostSample,
    JobItem,
    JobState,
    VmSample,
    VmState,
    VmStateItem,
)
from hostagent.outbox import Outbox, TelemetryBuffer

T = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def vm(name: str, state: VmState, incarnation: int = 1) -> VmStateItem:
    return VmStateItem(vm=name, incarnation=incarnation, state=state)


def test_the_newest_fact_of_each_thing_waits_in_order_of_change() -> None:
    outbox = Outbox()
    outbox.put(vm("a", VmState.RUNNING), 1)
    outbox.put(vm("b", VmState.RUNNING), 1)
    outbox.put(JobItem(job="j", vm="a", state=JobState.RUNNING), 2)
    outbox.put(vm("a", VmState.ABSENT), 3)
    outbox.put(vm("a", VmState.RUNNING, 2), 4)

    report = outbox.report("s", 9, T)

    assert report is not None
    assert report.items == (
        vm("b", VmState.RUNNING),
        JobItem(job="j", vm="a", state=JobState.RUNNING),
        vm("a", VmState.ABSENT),
        vm("a", VmState.RUNNING, 2),
    )
    # As of the oldest of them: that "a" is absent proves nothing about what was ordered later.
    assert (report.sequence, report.applied_position) == (1, 1)


def test_a_report_stays_the_same_until_it_is_acknowledged() -> None:
    outbox = Outbox()
    outbox.put(vm("a", VmState.RUNNING), 1)
    first = outbox.report("s", 1, T)
    outbox.put(vm("a", VmState.ABSENT), 2)

    assert outbox.report("s", 2, T + dt.timedelta(seconds=1)) is first
    outbox.acknowledged()
    second = outbox.report("s", 2, T)

    assert second is not None
    assert (second.sequence, second.items) == (2, (vm("a", VmState.ABSENT),))


def test_a_full_state_is_told_as_of_the_orders_it_was_made_under() -> None:
    outbox = Outbox()
    outbox.put(vm("a", VmState.RUNNING), 5)
    outbox.put(FullStateItem(), 5)
    outbox.put(vm("b", VmState.STARTING), 8)

    first = outbox.report("s", 8, T)
    outbox.acknowledged()
    second = outbox.report("s", 8, T)

    assert first is not None
    assert second is not None
    assert (first.applied_position, second.applied_position) == (5, 8)
    assert second.items == (vm("b", VmState.STARTING),)


def test_a_report_has_a_largest_size() -> None:
    outbox = Outbox()
    for number in range(REPORT_ITEMS_MAX + 1):
        outbox.put(vm(str(number), VmState.RUNNING), 1)

    report = outbox.report("s", 1, T)

    assert report is not None
    assert len(report.items) == REPORT_ITEMS_MAX
    assert len(outbox) == 1


def test_a_new_session_begins_with_nothing_and_number_one() -> None:
    outbox = Outbox()
    outbox.put(vm("a", VmState.RUNNING), 1)
    outbox.report("s", 1, T)
    outbox.reset()

    assert outbox.report("t", 1, T) is None
    outbox.put(vm("a", VmState.RUNNING), 1)
    report = outbox.report("t", 1, T)
    assert report is not None
    assert (report.session, report.sequence) == ("t", 1)


def host_sample() -> HostSample:
    return HostSample(
        time=T,
        cpu_percent=1,
        load=1,
        memory_total_bytes=1,
        memory_used_bytes=1,
        storage_free_bytes=1,
        vms_running=1,
    )


def vm_sample(name: str) -> VmSample:
    return VmSample(
        vm=name, incarnation=1, time=T, cpu_percent=1, memory_bytes=1, memory_used_bytes=1
    )


def test_telemetry_drops_the_oldest_and_counts_them() -> None:
    buffer = TelemetryBuffer(samples_max=5)
    for number in range(10):
        buffer.add(host_sample(), [vm_sample(str(number))])

    batch = buffer.batch("h", "b", T)

    assert batch is not None
    assert [sample.vm for sample in batch.vms] == ["7", "8", "9"]
    assert batch.dropped == 15
    assert buffer.dropped_total == 15


def test_a_batch_stays_the_same_until_it_is_taken_and_numbers_rise() -> None:
    buffer = TelemetryBuffer()
    buffer.add(host_sample(), [vm_sample("a")] * SAMPLES_MAX)
    first = buffer.batch("h", "b", T)
    assert buffer.batch("h", "b", T + dt.timedelta(days=1)) is first
    buffer.acknowledged()
    second = buffer.batch("h", "b", T - dt.timedelta(days=1))

    assert first is not None
    assert second is not None
    assert len(first.hosts) + len(first.vms) == SAMPLES_MAX
    assert second.sequence > first.sequence
    buffer.acknowledged()
    assert buffer.batch("h", "b", T) is None
