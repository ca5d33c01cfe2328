"""All commands: importing this module declares them."""

from __future__ import annotations

from types import ModuleType

from commands.affinity import (
    add_to_group,
    add_to_label,
    create_group,
    create_label,
    remove_group,
    remove_label,
    take_from_group,
    take_from_label,
    update_group,
    update_label,
)
from commands.cluster import balance as cluster_balance
from commands.cluster import balancing as cluster_balancing
from commands.cluster import create as cluster_create
from commands.cluster import fencing as cluster_fencing
from commands.cluster import migration as cluster_migration
from commands.cluster import remove as cluster_remove
from commands.cluster import resources as cluster_resources
from commands.cluster import schedule as cluster_schedule
from commands.cluster import update as cluster_update
from commands.data_center import create as data_center_create
from commands.data_center import remove as data_center_remove
from commands.data_center import update as data_center_update
from commands.host import (
    activate,
    add,
    add_fence_agent,
    approve,
    configure_power,
    confirm_off,
    confirm_state,
    force_remove,
    power_restart,
    power_start,
    power_status,
    power_stop,
    power_test,
    power_test_off,
    remove_fence_agent,
    update_fence_agent,
)
from commands.host import install as host_install
from commands.host import maintenance as host_maintenance
from commands.host import refresh as host_refresh
from commands.host import remove as host_remove
from commands.host import token as host_token
from commands.host import uninstall as host_uninstall
from commands.host import update as host_update
from commands.kernel.command import declared_commands
from commands.mac_pool import create as mac_pool_create
from commands.mac_pool import remove as mac_pool_remove
from commands.mac_pool import update as mac_pool_update
from commands.operation import cancel
from commands.scheduling_policy import create as policy_create
from commands.scheduling_policy import remove as policy_remove
from commands.scheduling_policy import update as policy_update
from commands.vm import (
    choose_hosts,
    create,
    high_availability,
    migrate,
    migration,
    reboot,
    remove,
    resume,
    shutdown,
    start,
    start_with_host,
    stop,
    suspend,
    tune,
    update,
)

MODULES: tuple[ModuleType, ...] = (
    *(data_center_create, data_center_update, data_center_remove),
    *(cluster_create, cluster_schedule, cluster_fencing, cluster_migration, cluster_remove),
    *(
        add,
        host_install,
        host_uninstall,
        host_token,
        approve,
        activate,
        host_maintenance,
        confirm_off,
        confirm_state,
    ),
    *(host_refresh, host_update, host_remove, force_remove),
    cluster_update,
    *(mac_pool_create, mac_pool_update, mac_pool_remove),
    *(configure_power, add_fence_agent, update_fence_agent, remove_fence_agent),
    *(power_status, power_test, power_test_off, power_start, power_stop, power_restart),
    *(create, update, start, resume, shutdown, stop, reboot, suspend, migrate, remove),
    *(create_group, update_group, add_to_group, take_from_group, remove_group),
    *(create_label, update_label, add_to_label, take_from_label, remove_label),
    *(policy_create, policy_update, policy_remove),
    *(choose_hosts, tune),
    *(cluster_resources, cluster_balancing, cluster_balance),
    *(high_availability, start_with_host, migration),
    cancel,
)
"""The modules whose commands make up the product."""

COMMANDS = declared_commands()
