"""Verbs: what is typed, what is sent, what is shown, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.unit.cli.conftest import CLUSTER, HOST, OPERATION, POOL, TOKEN, VM, Cli, FakeEngine, Json

DONE: Json = {"id": VM}
BEGUN: Json = {"id": VM, "operation": {"id": OPERATION, "href": f"/v1/operations/{OPERATION}"}}
PROBLEM: Json = {
    "type": "wrong-state",
    "title": "The object is in a state that does not allow this",
    "status": 409,
    "detail": "VM web01 cannot be started while it is up.",
    "remedy": "There is nothing to do: it runs.",
    "request_id": "r-1",
}


def _ended(outcome: str, reason: str = "") -> Json:
    return {**BEGUN, "operation": {**BEGUN["operation"], "outcome": outcome, "reason": reason}}


def _sent(engine: FakeEngine) -> tuple[str, str, Json]:
    (request,) = engine.commands
    body = json.loads(request.content) if request.content else {}
    return request.method, request.url.path, body


SENT: list[tuple[str, str, str, Json]] = [
    ("data-center create Prague --storage-type local", "POST", "data_centers", {
        "name": "Prague", "storage_type": "local"}),
    ("cluster create West --data-center Default --cpu-model EPYC", "POST", "clusters", {
        "name": "West", "data_center": CLUSTER, "cpu_model": "EPYC"}),
    ("cluster remove Default", "DELETE", f"clusters/{CLUSTER}", {}),
    ("host add kvm02 --cluster Default --approved", "POST", "hosts", {
        "name": "kvm02", "cluster": CLUSTER, "approved": True}),
    ("host token kvm01 --valid 2h", "POST", f"hosts/{HOST}/enrolment_token", {"valid_s": 7200}),
    ("host approve kvm01", "POST", f"hosts/{HOST}/approve", {}),
    ("host activate kvm01", "POST", f"hosts/{HOST}/activate", {}),
    ("host maintenance kvm01 --reason disk", "POST", f"hosts/{HOST}/maintenance", {
        "reason": "disk"}),
    ("host maintenance kvm01 --vms-that-stay power_off --deadline 2h", "POST",
        f"hosts/{HOST}/maintenance", {"vms_that_stay": "power_off", "deadline_s": 7200}),
    ("host refresh kvm01", "POST", f"hosts/{HOST}/refresh", {}),
    ("host update kvm01 --cluster Default", "PATCH", f"hosts/{HOST}", {"cluster": CLUSTER}),
    ("cluster update Default --cpu-type Haswell --bridges br0,ovirtmgmt --no-emulation", "PATCH",
        f"clusters/{CLUSTER}", {
            "cpu_type": "Haswell", "bridges": ["br0", "ovirtmgmt"], "emulation": False}),
    ("cluster update Default --memory-min 4GiB", "PATCH", f"clusters/{CLUSTER}", {
        "memory_min_bytes": 4 << 30}),
    ("cluster update Default --mac-pool west --serial-number policy=custom,value=SN-1", "PATCH",
        f"clusters/{CLUSTER}", {
            "mac_pool": POOL, "serial_number": {"policy": "custom", "value": "SN-1"}}),
    ("cluster resources Default --ksm --no-ksm-merge-across-nodes --ballooning", "POST",
        f"clusters/{CLUSTER}/resources", {
            "ksm": True, "ksm_merge_across_nodes": False, "ballooning": True}),
    (("mac-pool create east --range first=02:00:00:00:00:00,last=02:00:00:00:00:ff"
      " --range first=06:00:00:00:00:00,last=06:00:00:00:00:ff --allow-duplicates"), "POST",
        "mac_pools", {
            "name": "east", "allow_duplicates": True, "ranges": [
                {"first": "02:00:00:00:00:00", "last": "02:00:00:00:00:ff"},
                {"first": "06:00:00:00:00:00", "last": "06:00:00:00:00:ff"}]}),
    ("mac-pool remove west", "DELETE", f"mac_pools/{POOL}", {}),
    ("vm update web01 --memory-guaranteed 512MiB --no-ballooning", "PATCH", f"vms/{VM}", {
        "memory_guaranteed_bytes": 512 << 20, "ballooning": False}),
    ("vm update web01 --no-memory-guaranteed --no-serial-number", "PATCH", f"vms/{VM}", {
        "memory_guaranteed_bytes": None, "serial_number": None}),
    ("host confirm-off kvm01 --name kvm01", "POST", f"hosts/{HOST}/confirm_off", {
        "name": "kvm01"}),
    ("host remove kvm01", "DELETE", f"hosts/{HOST}", {}),
    ("vm start web01", "POST", f"vms/{VM}/start", {}),
    (f"vm start {VM}", "POST", f"vms/{VM}/start", {}),
    ("vm start web01 --discard-saved-memory", "POST", f"vms/{VM}/start", {
        "discard_saved_memory": True}),
    ("vm shutdown web01 --shutdown-timeout 5m", "POST", f"vms/{VM}/shutdown", {
        "timeout_s": 300.0}),
    ("vm update web01 --memory 2GiB --no-cdrom --no-delete-protected", "PATCH", f"vms/{VM}", {
        "memory_bytes": 2 << 30, "cdrom": None, "delete_protected": False}),
    ("vm update web01 --cdrom x.iso --cpu cores=2,threads=2", "PATCH", f"vms/{VM}", {
        "cdrom": "x.iso", "cpu": {"cores": 2, "threads": 2}}),
    ("vm remove web01", "DELETE", f"vms/{VM}", {}),
    (f"affinity-group create x --cluster Default --vm-rule negative --vms web01,{VM}",
        "POST", "affinity_groups", {
        "name": "x", "cluster": CLUSTER, "vm_rule": "negative", "vms": [VM, VM]}),
    ("vm choose-hosts web01 --hosts kvm01 --pinned", "POST", f"vms/{VM}/choose_hosts", {
        "hosts": [HOST], "pinned": True}),
    ("vm tune web01 --cpu-pin vcpu=0,cpus=0-3+8 --huge-page 2MiB", "POST", f"vms/{VM}/tuning", {
        "cpu_pins": [{"vcpu": 0, "cpus": "0-3+8"}], "huge_page_bytes": 2 << 20}),
    ("vm tune web01 --numa-node vcpus=0-1,memory=1GiB,host-nodes=0,mode=strict", "POST",
        f"vms/{VM}/tuning", {"numa_nodes": [
            {"vcpus": "0-1", "memory_bytes": 1 << 30, "host_nodes": "0", "mode": "strict"}]}),
    ("vm create x --cluster Default --cpu-pin vcpu=0,cpus=3 --high-performance", "POST", "vms", {
        "name": "x", "cluster": CLUSTER,
        "tuning": {"cpu_pins": [{"vcpu": 0, "cpus": "3"}], "high_performance": True}}),
    ("cluster balance Default --no-wait", "POST", f"clusters/{CLUSTER}/balance", {}),
    ("cluster balancing Default --mode automatic --interval 2m", "POST",
        f"clusters/{CLUSTER}/balancing", {"mode": "automatic", "interval_s": 120.0}),
    (f"operation cancel {OPERATION}", "POST", f"operations/{OPERATION}/cancel", {}),
]  # fmt: skip


@pytest.mark.parametrize(("words", "method", "path", "body"), SENT, ids=[s[0] for s in SENT])
def test_what_is_typed_is_sent(
    cli: Cli, engine: FakeEngine, words: str, method: str, path: str, body: Json
) -> None:
    engine.objects["data_centers"] = [{"id": CLUSTER, "name": "Default"}]
    engine.tell(200, DONE)
    cli(*words.split())
    assert _sent(engine) == (method, f"/v1/{path}", body)


def test_a_maintenance_is_previewed(cli: Cli, engine: FakeEngine) -> None:
    """given --preview, then nothing is begun, and a line for each VM says what would become"""
    vms = [{"vm_name": "web01", "fate": "moves", "host_name": "kvm02", "reason": ""}]
    vms += [{"vm_name": "db01", "fate": "shuts_down", "host_name": "", "reason": "It is bound."}]
    found = {"host_name": "kvm01", "fates": {"moves": 1, "shuts_down": 1}, "vms": vms}
    engine.tell(200, found)
    words = "host maintenance kvm01 --preview --vms-that-stay shut_down --reason fan"
    shown = cli(*words.split()).output
    path = f"/v1/hosts/{HOST}/maintenance/preview"
    assert _sent(engine) == ("POST", path, {"vms_that_stay": "shut_down"})
    assert "vms: 1 moves, 1 shuts down" in shown
    assert "db01   shuts down           It is bound." in shown


def test_a_plan_is_previewed(cli: Cli, engine: FakeEngine) -> None:
    figures = {"vms": 4, "cpu_percent": 90, "memory_free_bytes": 1}
    hosts = [{"host_name": "kvm01", "before": figures, "after": {**figures, "vms": 3}}]
    move = {"vm_name": "web01", "source_name": "kvm01", "destination_name": "kvm02"}
    found = {"cluster_name": "Default", "scheduling": {"policy": "none"}, "hosts": hosts}
    engine.tell(200, {**found, "moves": [{**move, "reason": "It is pinned."}]})
    shown = cli("cluster", "balance", "Default", "--preview").output
    assert _sent(engine) == ("POST", f"/v1/clusters/{CLUSTER}/balance/preview", {})
    assert "web01  kvm01      kvm02    It is pinned." in shown
    assert "kvm01  4 -> 3  90 -> 90" in shown


def test_a_whole_vm_is_typed_in_one_line(cli: Cli, engine: FakeEngine) -> None:
    engine.tell(202, BEGUN)
    cli(
        *("vm", "create", "web02", "--cluster", "Default", "--memory", "1GiB"),
        *("--cpu", "sockets=1,cores=2", "--disk", "size=10GiB,image=base.qcow2,bootable"),
        *("--disk", "size=512MiB,bus=scsi,read-only=no", "--nic", "bridge=br0"),
        *("--kernel", "vmlinuz", "--initrd", "initrd.img", "--command-line", "console=ttyS0 a,b"),
        *("--boot-devices", "cdrom,disk", "--cdrom", "x.iso", "--host", "kvm01"),
    )
    method, path, body = _sent(engine)
    assert (method, path) == ("POST", "/v1/vms")
    assert body == {
        "name": "web02",
        "cluster": CLUSTER,
        "memory_bytes": 1 << 30,
        "cpu": {"sockets": 1, "cores": 2},
        "disks": [
            {"size_bytes": 10 << 30, "image": "base.qcow2", "bootable": True},
            {"size_bytes": 512 << 20, "bus": "scsi", "read_only": False},
        ],
        "nics": [{"bridge": "br0"}],
        "boot": {
            "kernel": "vmlinuz",
            "initrd": "initrd.img",
            "command_line": "console=ttyS0 a,b",
            "devices": ["cdrom", "disk"],
        },
        "cdrom": "x.iso",
        "host": HOST,
    }


def test_each_command_has_a_key_and_shows_the_token(cli: Cli, engine: FakeEngine) -> None:
    engine.tell(202, BEGUN)
    cli("vm", "start", "web01")
    cli("vm", "start", "web01", "--idempotency-key", "mine")
    first, second = engine.commands
    assert len(first.headers["idempotency-key"]) == 36
    assert second.headers["idempotency-key"] == "mine"
    assert first.headers["authorization"] == f"Bearer {TOKEN}"
    assert "prefer" not in first.headers


def test_a_change_may_be_meant_for_one_version(cli: Cli, engine: FakeEngine) -> None:
    engine.tell(200, DONE)
    cli("vm", "update", "web01", "--name", "web02", "--if-version", "7")
    assert engine.commands[0].headers["if-match"] == '"7"'


def test_the_name_of_a_host_that_is_off_is_asked_for(cli: Cli, engine: FakeEngine) -> None:
    engine.tell(200, {"id": HOST})
    cli("host", "confirm-off", "kvm01", given="kvm01\n")
    assert _sent(engine)[2] == {"name": "kvm01"}


def test_what_was_done_can_be_read_by_whoever_asks_next(cli: Cli, engine: FakeEngine) -> None:
    engine.tell(202, BEGUN, **{"Chronovisor-Position": "42"})
    cli("vm", "start", "web01")
    assert engine.asked[-1].headers["chronovisor-min-position"] == "42"


# --------------------------------------------------------------------------------------- waiting


def test_a_wait_goes_on_under_the_same_key(cli: Cli, engine: FakeEngine) -> None:
    engine.tell(202, BEGUN)
    engine.tell(202, BEGUN)
    engine.tell(200, _ended("succeeded"))
    shown = cli("vm", "start", "web01", "--wait").stdout
    assert "succeeded" in shown
    assert len({request.headers["idempotency-key"] for request in engine.commands}) == 1
    assert [request.headers["prefer"] for request in engine.commands] == ["wait=60"] * 3


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
def test_an_operation_that_failed_ends_with_4(cli: Cli, engine: FakeEngine, outcome: str) -> None:
    engine.tell(200, _ended(outcome, "No host fits."))
    assert "No host fits." in cli("vm", "start", "web01", "--wait", code=4).stdout


def test_a_wait_that_is_over_ends_with_5_and_says_how_to_wait_on(
    cli: Cli, engine: FakeEngine
) -> None:
    engine.tell(202, BEGUN)
    shown = cli("vm", "start", "web01", "--wait", "--timeout", "0.01s", code=5)
    assert "under way" in shown.stdout
    assert f"operation wait {OPERATION}" in shown.stderr


# -------------------------------------------------------------------------------- what goes wrong


def test_a_refusal_is_shown_with_what_to_do_and_ends_with_3(cli: Cli, engine: FakeEngine) -> None:
    engine.tell(409, PROBLEM)
    shown = cli("vm", "start", "web01", code=3).stderr
    for part in ("title", "detail", "remedy", "type", "request_id"):
        assert PROBLEM[part] in shown


def test_a_refusal_is_json_where_json_is_wanted(cli: Cli, engine: FakeEngine) -> None:
    engine.tell(409, PROBLEM)
    result = cli("vm", "start", "web01", "-o", "json", code=3)
    assert json.loads(result.stderr) == PROBLEM
    assert result.stdout == ""


@pytest.mark.parametrize(("status", "code"), [(401, 3), (422, 3), (500, 1), (503, 6)])
def test_exit_codes_tell_whose_fault_it_is(
    cli: Cli, engine: FakeEngine, status: int, code: int
) -> None:
    engine.tell(status, {**PROBLEM, "status": status})
    cli("vm", "start", "web01", code=code)


def test_an_engine_that_cannot_be_reached_ends_with_6(cli: Cli, engine: FakeEngine) -> None:
    engine.answers = [httpx.ConnectError("refused")]
    assert "cannot be reached" in cli("vm", "start", VM, code=6).stderr
    assert len(engine.commands) == 1


def test_an_answer_that_was_lost_is_asked_for_again(cli: Cli, engine: FakeEngine) -> None:
    engine.answers = [httpx.ReadError("cut"), httpx.Response(503, json=PROBLEM)]
    engine.tell(202, BEGUN)
    cli("vm", "start", VM)
    assert len(engine.commands) == 3
    assert len({request.headers["idempotency-key"] for request in engine.commands}) == 1


def test_a_name_that_nobody_has_and_one_that_several_have(cli: Cli, engine: FakeEngine) -> None:
    assert "no VM with the name web09" in cli("vm", "start", "web09", code=3).stderr
    engine.objects["vms"] = [{"id": VM, "name": "web01"}, {"id": HOST, "name": "web01"}]
    assert HOST in cli("vm", "start", "web01", code=2).stderr
    assert not engine.commands


@pytest.mark.parametrize(
    "words",
    [
        "vm create x",
        "vm create x --cluster Default --memory much",
        "vm create x --cluster Default --disk image=a",
        "vm create x --cluster Default --disk size=1GiB,colour=red",
        "vm create x --cluster Default --nic =br0",
        "vm start web01 --wait --timeout soon",
        "vm start",
        "vm nothing",
        "data-center create x --storage-type tape",
        "operation cancel web01",
        "vm start web01 --url ftp://engine",
        "vm start web01 --token-file nowhere",
        "vm start web01 --ca-file nowhere",
    ],
)
def test_what_cannot_be_understood_ends_with_2_and_sends_nothing(
    cli: Cli, engine: FakeEngine, words: str
) -> None:
    assert cli(*words.split(), code=2).stderr
    assert not engine.commands


def test_the_token_of_this_folder_goes_to_no_url_that_was_given(
    cli: Cli, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "admin.token").write_text("l" * 43)
    (tmp_path / "var" / "addresses.json").write_text('{"api": "http://127.0.0.1:1"}')
    engine.tell(202, BEGUN)
    from typer.testing import CliRunner  # noqa: PLC0415

    for environment, expected in (
        ({"CHRONOVISOR_URL": "http://elsewhere"}, (None, "elsewhere")),
        ({}, (f"Bearer {'l' * 43}", "127.0.0.1")),
    ):
        result = CliRunner(env=environment).invoke(cli._app, ["vm", "start", VM])
        assert result.exit_code == 0, result.output
        request = engine.commands[-1]
        assert (request.headers.get("authorization"), request.url.host) == expected
