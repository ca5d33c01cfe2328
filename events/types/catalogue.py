"""All event types and the upcasters of their old schemas."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from events.types import (
    affinity,
    balancing,
    cluster,
    data_center,
    host,
    host_boot,
    host_failing,
    host_fitness,
    host_maintenance,
    host_power,
    host_refresh,
    host_ssh,
    log,
    mac_pool,
    migration_settings,
    operation,
    policy,
    scheduling_policy,
    vm,
    vm_availability,
    vm_copies,
    vm_hosts,
    vm_jobs,
    vm_memory,
    vm_migration,
    vm_power,
)
from events.types.base import registered_types

MODULES: tuple[ModuleType, ...] = (
    data_center,
    cluster,
    mac_pool,
    scheduling_policy,
    affinity,
    balancing,
    host,
    host_failing,
    host_fitness,
    host_maintenance,
    host_power,
    host_boot,
    host_refresh,
    host_ssh,
    vm,
    vm_jobs,
    vm_power,
    vm_copies,
    vm_migration,
    vm_hosts,
    vm_memory,
    vm_availability,
    migration_settings,
    operation,
    policy,
    log,
)
"""The modules whose event types make up the log: importing this one registers them all."""

TYPES = registered_types()

UPCASTERS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""`(name, schema)` to the function that lifts plain fields of that schema to the next one."""
