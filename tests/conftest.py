"""What all tests share: the harness's fixtures, and the rule for a component that is not there."""

import importlib.util
import os
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

from tests.harness.processes import patience
from tests.harness.workspace import cache_folder

pytest_plugins = ["tests.harness.fixtures"]
# How long an example takes says nothing of the code: other tests have the processors as well.
hypothesis.settings.register_profile(
    "shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("shared")
TESTS = Path(__file__).parent
TIMEOUT_S = 120.0
"""What a test may take that says nothing of it; see pyproject.toml."""


def _program(*names: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        absent = [name for name in names if shutil.which(name) is None]
        return f"not installed: {', '.join(absent)}" if absent else None

    return missing


def _kafka_missing() -> str | None:
    if not any((cache_folder() / "kafka" / "libs").glob("kafka_*.jar")):
        return "its jars are not in the cache (tests/install/kafka.sh)"
    return _program("java")()


def _libvirt_missing() -> str | None:
    if os.geteuid() != 0:
        return "only root can make namespaces for a host"
    if importlib.util.find_spec("libvirt") is None:
        return "libvirt-python is not installed (make venv-host)"
    return _program("libvirtd", "qemu-system-x86_64", "qemu-img", "tini", "ip", "unshare")()


# Each component that a test may need: answers why it is missing, or nothing if it is there.
COMPONENTS: dict[str, Callable[[], str | None]] = {
    "firewalld": _program("firewalld", "firewall-cmd", "dbus-daemon", "nft"),
    "ipmi": _program("ipmi_sim", "ipmitool", "fence_ipmilan"),
    "kafka": _kafka_missing,
    "libvirt": _libvirt_missing,
    "packages": _program("apt-get", "dnf", "rpmbuild", "createrepo_c", "tini", "nsenter"),
    "qemu": _program("qemu-system-x86_64"),
    "qemu-img": _program("qemu-img", "prlimit"),
    "shellcheck": _program("shellcheck"),
    "snmptrapd": _program("snmptrapd"),
    "sshd": _program("/usr/sbin/sshd", "/usr/bin/ssh-keygen", "sudo"),
}


def require(component: str) -> None:
    """Stop the test if the component is missing: skip it, or, where everything must be there, fail.

    Everything must be there if CI or CHRONOVISOR_REQUIRE_ALL is set (`make test` sets the latter):
    a skipped test must never pass for a green one.
    """
    why = COMPONENTS[component]()
    if why is None:
        return
    if os.environ.get("CI") or os.environ.get("CHRONOVISOR_REQUIRE_ALL"):
        pytest.fail(f"{component} is required here: {why}", pytrace=False)
    pytest.skip(f"{component}: {why}")


FOLDERS = ("system", "simulation", "integration", "unit")
"""From those whose files take longest to those whose files take least."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files by what they may take: several processes then end at about the same time."""
    allowed_s: dict[Path, float] = defaultdict(float)
    for item in items:
        mark = item.get_closest_marker("timeout")
        timeout_s = mark.args[0] if mark is not None and mark.args else TIMEOUT_S
        allowed_s[item.path] += timeout_s
        if patience() != 1:
            item.add_marker(pytest.mark.timeout(timeout_s * patience()), append=False)

    def rank(item: pytest.Item) -> tuple[int, float, Path]:
        folder = item.path.relative_to(TESTS).parts[0]
        order = FOLDERS.index(folder) if folder in FOLDERS else 0
        return order, -allowed_s[item.path], item.path

    items.sort(key=rank)  # which leaves a file's tests in their order
    _allow_reruns(items)


def _allow_reruns(items: list[pytest.Item]) -> None:
    """Let tests of real components be tried again as often as `.ci/run` says; it names them.

    A fault of a shared machine is not one of the change that is tried. Everywhere else, and for
    tests that depend on nothing but the code (`unit`, `simulation`), one failure is a failure.
    """
    reruns = int(os.environ.get("CHRONOVISOR_TEST_RERUNS", "0"))
    for item in items:
        if reruns and item.path.relative_to(TESTS).parts[0] in {"system", "integration"}:
            item.add_marker(pytest.mark.flaky(reruns=reruns, reruns_delay=2))
