"""docker-compose.yml as the tests see it: read, with its variables at their defaults."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "docker-compose.yml"
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+):-([^}]*)\}")
IMAGE = "chronovisor"


def read_compose(variables: dict[str, str] | None = None) -> dict[str, Any]:
    """The file with its variables put in: those given, or else their defaults."""
    given = variables or {}
    text = VARIABLE.sub(
        lambda found: given.get(found[1], found[2]), FILE.read_text(encoding="utf-8")
    )
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


COMPOSE = read_compose()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {
    name: service
    for name, service in SERVICES.items()
    if service["image"].partition(":")[0] == IMAGE
}
THEIRS = {name: service for name, service in SERVICES.items() if name not in OURS}


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """The volumes of a service: where each is mounted, and whether it can be written."""
    found = {}
    for volume in service.get("volumes", ()):
        if isinstance(volume, str):
            source, target, *mode = volume.split(":")
            found[source] = (target, mode != ["ro"])
        else:
            found[volume["source"]] = (volume["target"], not volume.get("read_only", False))
    return found


def networks(service: dict[str, Any]) -> set[str]:
    """The networks that a service is on."""
    return set(service.get("networks", ()))
