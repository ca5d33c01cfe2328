"""Values as people type them: sizes, durations, `key=value` lists."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)\Z")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([a-z]*)\Z")
_BINARY = {name: 1024**power for power, name in enumerate(("", "k", "m", "g", "t"))}
_DECIMAL = {name: 1000**power for power, name in enumerate(("", "kb", "mb", "gb", "tb"))}
_UNITS_B = {
    "b": 1,
    **_BINARY,
    **{f"{name}ib": factor for name, factor in _BINARY.items() if name},
    **{name: factor for name, factor in _DECIMAL.items() if name},
}
_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_YES, _NO = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})


class BadValue(ValueError):
    """What was typed cannot be understood; the text says what is allowed."""


def parse_size(text: str) -> int:
    """Return bytes: `1GiB`, `512M` (as GiB and MiB), `1.5TiB`, `10GB` (decimal), `1048576`."""
    match = _SIZE.match(text.strip())
    factor = _UNITS_B.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise BadValue(f"{text!r} is no size: give a number with B, KiB, MiB, GiB or TiB")
    number = float(match[1]) * factor if "." in match[1] else int(match[1]) * factor
    if number != int(number):
        raise BadValue(f"{text!r} is not a whole number of bytes")
    return int(number)


def parse_duration(text: str) -> float:
    """Return seconds: `90`, `90s`, `5m`, `1.5h`, `7d`."""
    match = _DURATION.match(text.strip().lower())
    factor = _UNITS_S.get(match[2]) if match else None
    if match is None or factor is None:
        raise BadValue(f"{text!r} is no duration: give a number with s, m, h or d")
    return float(match[1]) * factor


def parse_boolean(text: str) -> bool:
    """Return whether the text means yes."""
    if text.lower() in _YES:
        return True
    if text.lower() in _NO:
        return False
    raise BadValue(f"{text!r} is neither yes nor no")


def parse_pairs(text: str) -> dict[str, str]:
    """Return `size=10GiB,image=base.qcow2,bootable` as pairs; a bare word means yes."""
    pairs: dict[str, str] = {}
    for part in text.split(","):
        key, separator, value = part.strip().partition("=")
        name = key.strip().replace("-", "_")
        if not name:
            raise BadValue(f"{text!r} is not of the form key=value,key=value")
        if name in pairs:
            raise BadValue(f"{key} is given twice in {text!r}")
        pairs[name] = value.strip() if separator else "true"
    return pairs


def show_size(number: float) -> str:
    """Return bytes for people: `1 GiB`, `1.5 TiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:  # noqa: PLR2004 - the step between binary units
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:.4g} TiB"
