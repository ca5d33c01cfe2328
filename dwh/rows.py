"""Events and telemetry as Arrow tables, whose columns are those of schema.sql."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from events.audit import AuditRecord
from events.envelope import Stored
from events.wire.agent import Telemetry

_TIME = pa.timestamp("us")
_TEXT = pa.string()
_BIG = pa.int64()

EVENTS = pa.schema(
    [
        ("position", _BIG),
        ("time", _TIME),
        ("stream", _TEXT),
        ("version", _BIG),
        ("name", _TEXT),
        ("schema", pa.int32()),
        ("actor", _TEXT),
        ("command", _TEXT),
        ("correlation", _TEXT),
        ("causation", _TEXT),
        ("addressee", _TEXT),
        ("payload", _TEXT),
    ]
)
AUDIT = pa.schema(
    [
        ("position", _BIG),
        ("time", _TIME),
        ("code", pa.int32()),
        ("name", _TEXT),
        ("severity", _TEXT),
        ("message", _TEXT),
        ("actor", _TEXT),
        ("stream", _TEXT),
        ("correlation", _TEXT),
        ("resolves", _TEXT),
    ]
)
HOST_SAMPLES = pa.schema(
    [
        ("time", _TIME),
        ("host", _TEXT),
        ("boot", _TEXT),
        ("cpu_percent", pa.float64()),
        ("load", pa.float64()),
        ("memory_total_bytes", _BIG),
        ("memory_used_bytes", _BIG),
        ("storage_free_bytes", _BIG),
        ("vms_running", pa.int32()),
        ("network_receive_bytes_per_s", pa.float64()),
        ("network_transmit_bytes_per_s", pa.float64()),
    ]
)
VM_SAMPLES = pa.schema(
    [
        ("time", _TIME),
        ("host", _TEXT),
        ("vm", _TEXT),
        ("incarnation", _BIG),
        ("cpu_percent", pa.float64()),
        ("memory_bytes", _BIG),
        ("memory_used_bytes", _BIG),
        ("disk_read_bytes_per_s", pa.float64()),
        ("disk_write_bytes_per_s", pa.float64()),
        ("disk_read_operations_per_s", pa.float64()),
        ("disk_write_operations_per_s", pa.float64()),
        ("network_receive_bytes_per_s", pa.float64()),
        ("network_transmit_bytes_per_s", pa.float64()),
    ]
)
WATERMARKS = pa.schema(
    [("host", _TEXT), ("boot", _TEXT), ("sequence", _BIG), ("dropped", _BIG), ("time", _TIME)]
)
CLOSED = pa.schema([("id", _TEXT), ("valid_to", _TIME)])


def plain_utc(time: dt.datetime) -> dt.datetime:
    """Return a time in UTC without its zone, as the warehouse's columns have it."""
    return time.astimezone(dt.UTC).replace(tzinfo=None)


def table(schema: pa.Schema, rows: Iterable[Sequence[Any]]) -> pa.Table:
    """Return a table of rows whose values are in the schema's order."""
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [
        pa.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def events_table(events: Iterable[Stored]) -> pa.Table:
    """Return events as a table."""
    return table(
        EVENTS,
        (
            (
                stored.position,
                plain_utc(stored.time),
                stored.stream,
                stored.version,
                stored.name,
                stored.schema,
                stored.actor,
                str(stored.command),
                stored.correlation,
                stored.causation,
                stored.addressee,
                stored.payload.decode(),
            )
            for stored in events
        ),
    )


def audit_table(records: Iterable[AuditRecord]) -> pa.Table:
    """Return audit records as a table."""
    return table(
        AUDIT,
        (
            (
                record.position,
                plain_utc(record.time),
                record.code,
                record.name,
                record.severity.value,
                record.message,
                record.actor,
                record.stream,
                record.correlation,
                record.resolves,
            )
            for record in records
        ),
    )


def host_samples_table(telemetry: Iterable[Telemetry]) -> pa.Table:
    """Return the samples of hosts as a table."""
    names = HOST_SAMPLES.names[3:]
    return table(
        HOST_SAMPLES,
        (
            (
                plain_utc(sample.time),
                batch.host,
                batch.boot,
                *(getattr(sample, name) for name in names),
            )
            for batch in telemetry
            for sample in batch.hosts
        ),
    )


def vm_samples_table(telemetry: Iterable[Telemetry]) -> pa.Table:
    """Return the samples of VMs as a table."""
    names = VM_SAMPLES.names[2:]
    return table(
        VM_SAMPLES,
        (
            (
                plain_utc(sample.time),
                batch.host,
                *(getattr(sample, name) for name in names),
            )
            for batch in telemetry
            for sample in batch.vms
        ),
    )
