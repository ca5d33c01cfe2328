"""`python -m benchmarks [NAME ...]`: run the benchmarks named, or all; print a table of goals.

`--json FILE` writes the figures with the machine's facts. `BENCH=full` in the environment makes the
runs longer, and runs what takes long as well: by default all takes less than five minutes.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

import benchmarks
from benchmarks._report import COLLECTED, HEAD, collected, machine

TIMEOUT_S = 7_200
LONG = frozenset({"failover"})
"""What is run only by name, or with `BENCH=full`."""


def names() -> list[str]:
    """The benchmarks that there are: the public modules of this package."""
    return sorted(
        found.name
        for found in pkgutil.iter_modules(benchmarks.__path__)
        if not found.name.startswith("_")
    )


def by_default() -> list[str]:
    """The benchmarks that are run where none is named."""
    full = os.environ.get("BENCH") == "full"
    return [name for name in names() if full or name not in LONG]


def main() -> None:
    """Run each in a process of its own, so that none measures what another left behind."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*names(), []], metavar="NAME")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chronovisor-bench-") as folder:
        noted = Path(folder) / "figures"
        took_s, failed = _run(arguments.names or by_default(), noted)
        figures = collected(noted)
    print(f"\n{HEAD}")
    for figure in sorted(figures, key=lambda figure: figure.goal):
        print(figure.line())
    if arguments.json is not None:
        found = {
            "time": dt.datetime.now(dt.UTC).isoformat(),
            "machine": machine(),
            "took_s": took_s,
            "failed": failed,
            "figures": [
                msgspec.to_builtins(figure) | {"verdict": figure.verdict} for figure in figures
            ],
        }
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _run(wanted: list[str], noted: Path) -> tuple[dict[str, float], list[str]]:
    """Return how long each took, and which failed."""
    took_s: dict[str, float] = {}
    failed = []
    for name in wanted:
        print(f"--- {name}", flush=True)
        began = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}"],
            check=False,
            timeout=TIMEOUT_S,
            env=os.environ | {COLLECTED: str(noted)},
        )
        took_s[name] = round(time.monotonic() - began, 1)
        if ran.returncode:
            failed.append(name)
        print(f"    {took_s[name]:.0f} s{', FAILED' if ran.returncode else ''}", flush=True)
    return took_s, failed


if __name__ == "__main__":
    main()
