"""Which serial number a run of a VM shows its guest."""

from __future__ import annotations

import msgspec
import pytest

from commands.cluster.create import CreateCluster
from commands.cluster.update import UpdateCluster
from commands.kernel.refusal import InvalidField
from commands.state.cluster import CLUSTER as CLUSTERS
from commands.state.host import HOST
from commands.state.serial_input import SerialNumberInput, serial_of
from commands.state.vm import VM
from commands.vm.create import CreateVm
from commands.vm.start import StartVm
from commands.vm.update import UpdateVm
from events.types import vm as v
from events.types.cluster import ClusterCreated, ClusterUpdated
from events.types.run_spec import SerialNumber, SerialPolicy
from tests.unit.commands.samples import (
    CLUSTER,
    DATA_CENTER,
    HOST_ID,
    VM_ID,
    place,
    vm,
)
from tests.unit.policies.stage import Stage

HOSTS_OWN = SerialNumberInput(policy=SerialPolicy.HOST)
TEXT = SerialNumberInput(policy=SerialPolicy.CUSTOM, value="ABC 123")


def test_a_cluster_says_whose_serial_number_its_vms_have() -> None:
    when = place().when(
        CreateCluster(name="West", data_center=DATA_CENTER, serial_number=HOSTS_OWN)
    )
    assert when.event(ClusterCreated).serial_number == SerialNumber(policy=SerialPolicy.HOST)
    changed = place().when(UpdateCluster(id=CLUSTER, serial_number=TEXT), hosts_of=lambda _id: ())
    wanted = SerialNumber(policy=SerialPolicy.CUSTOM, value="ABC 123")
    assert changed.event(ClusterUpdated).serial_number == wanted
    other = changed.follows().when(
        UpdateCluster(id=CLUSTER, description="x"), hosts_of=lambda _id: ()
    )
    assert other.event(ClusterUpdated).serial_number == wanted
    changed.follows().when(UpdateCluster(id=CLUSTER, serial_number=TEXT)).then_nothing()


@pytest.mark.parametrize(
    ("wanted", "word"),
    [
        (SerialNumberInput(policy=SerialPolicy.CUSTOM), "needs a value"),
        (SerialNumberInput(policy=SerialPolicy.HOST, value="x"), "host has no value"),
        (SerialNumberInput(value="x"), "vm has no value"),
    ],
)
def test_a_value_belongs_to_policy_custom(wanted: SerialNumberInput, word: str) -> None:
    place().when(CreateCluster(name="West", data_center=DATA_CENTER, serial_number=wanted)).refused(
        InvalidField, word
    )
    place().when(UpdateCluster(id=CLUSTER, serial_number=wanted)).refused(InvalidField, word)
    place().when(CreateVm(name="a", cluster=CLUSTER, serial_number=wanted)).refused(
        InvalidField, word
    )


@pytest.mark.parametrize("value", [" a", "a ", "tab\there", "\u00fc", "a\n", "x" * 65])
def test_what_smbios_cannot_hold_is_refused_as_it_comes(value: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"policy": "custom", "value": value}, SerialNumberInput)


def test_a_vm_may_have_a_policy_of_its_own_and_give_it_up() -> None:
    own = vm().when(UpdateVm(id=VM_ID, serial_number=TEXT))
    configuration = own.event(v.VmUpdated).configuration
    assert configuration.serial_number == SerialNumber(policy=SerialPolicy.CUSTOM, value="ABC 123")
    own.follows().when(UpdateVm(id=VM_ID, serial_number=TEXT)).then_nothing()
    given_up = own.follows().when(UpdateVm(id=VM_ID, serial_number=None))
    assert given_up.event(v.VmUpdated).configuration.serial_number is None
    made = place().when(CreateVm(name="a", cluster=CLUSTER, serial_number=HOSTS_OWN))
    assert made.event(v.VmCreated).configuration.serial_number == SerialNumber(
        policy=SerialPolicy.HOST
    )


def resolved(cluster: SerialNumberInput, own: SerialNumberInput | None = None) -> str | None:
    """The serial number of a run that begins now."""
    history = (
        vm()
        .when(UpdateCluster(id=CLUSTER, serial_number=cluster), hosts_of=lambda _id: ())
        .follows()
    )
    if own is not None:
        history = history.when(UpdateVm(id=VM_ID, serial_number=own)).follows()
    state, where = history.state(VM, VM_ID), history.state(CLUSTERS, CLUSTER)
    assert state is not None
    assert where is not None
    return serial_of(state, where, history.state(HOST, HOST_ID))


def test_the_vms_policy_comes_before_the_clusters() -> None:
    assert resolved(SerialNumberInput()) is None
    assert resolved(HOSTS_OWN) == "hw"
    assert resolved(TEXT) == "ABC 123"
    assert resolved(TEXT, own=SerialNumberInput()) is None
    assert resolved(TEXT, own=HOSTS_OWN) == "hw"


async def test_a_start_fixes_it_in_the_run_spec() -> None:
    # given a cluster whose VMs show the hardware id of their host
    stage = Stage()
    await stage.open()
    await stage.do(UpdateCluster(id=stage.cluster, serial_number=HOSTS_OWN))
    vm_id = await stage.do(CreateVm(name="web01", cluster=stage.cluster))

    # when
    await stage.do(StartVm(id=vm_id))
    await stage.settle()

    # then
    run = (await stage.vm(vm_id)).run
    assert run is not None
    assert run.spec.serial == "host1"
