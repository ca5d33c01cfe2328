"""`python -m benchmarks [NAME ...]`: run the benchmarks named, or all; print a table of goals.

`--json FILE` writes the figures with the machine's facts. `BENCH=full` in the environment makes the
runs longer, and runs what takes long as well: by default all takes less than five minutes. One that
fails, or takes longer than `--timeout`, is a row that says so, with whatever it found before, and
makes the exit status 1; the others are run and told of all the same.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

import benchmarks
from benchmarks._machine import machine
from benchmarks._report import COLLECTED, HEAD, Figure, Run, collected
from tests.harness.processes import kill_tree

FULL = os.environ.get("BENCH") == "full"
TIMEOUT_S = 6 * 3_600.0 if FULL else 300.0
END_TIMEOUT_S = 60.0
"""So long has one that takes too long to end what it started, before it is killed."""
LONG = frozenset({"failover", "standby"})
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
    return [name for name in names() if FULL or name not in LONG]


def command(name: str) -> list[str]:
    """Return what runs a benchmark."""
    return [sys.executable, "-m", f"benchmarks.{name}"]


def main() -> None:
    """Run each in a process of its own, so that none measures what another left behind."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*names(), []], metavar="NAME")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here, too")
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, help="for each benchmark, in seconds"
    )
    arguments = parser.parse_args()
    time_ = dt.datetime.now(dt.UTC)
    facts = machine()
    began = time.monotonic()
    runs = _run(arguments.names or by_default(), arguments.timeout)
    whole_s = round(time.monotonic() - began, 1)
    _show(runs, whole_s)
    failed = [run.name for run in runs if run.failure]
    if arguments.json is not None:
        found = {
            "time": time_.isoformat(),
            "full": FULL,
            "machine": facts,
            "load_after": list(os.getloadavg()),
            "took_s": {run.name: run.took_s for run in runs},
            "whole_s": whole_s,
            "failed": failed,
            "runs": [
                {"name": run.name, "took_s": run.took_s, "failure": run.failure} for run in runs
            ],
            "figures": [
                {"benchmark": run.name} | msgspec.to_builtins(figure) | {"verdict": figure.verdict}
                for run in runs
                for figure in run.figures
            ],
        }
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _run(wanted: list[str], timeout_s: float) -> list[Run]:
    """Run benchmarks one after the other; an interrupt from the keyboard leaves out the rest."""
    # A shell has what it runs in the background ignore SIGINT, by which benchmarks are ended here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="chronovisor-bench-") as folder:
        for name in wanted:
            print(f"--- {name}", flush=True)
            noted = Path(folder) / name
            began = time.monotonic()
            failure, go_on = _run_one(name, noted, timeout_s)
            run = Run(
                name=name,
                took_s=round(time.monotonic() - began, 1),
                failure=failure,
                figures=collected(noted),
            )
            runs.append(run)
            print(run.line(), flush=True)
            if not go_on:
                break
    return runs


def _run_one(name: str, noted: Path, timeout_s: float) -> tuple[str, bool]:
    """Run one; return what is wrong with it, if anything, and whether to go on with the others."""
    process = subprocess.Popen(command(name), env=os.environ | {COLLECTED: str(noted)})
    try:
        status = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        _end(process)
        return f"not done after {timeout_s:g} s", True
    except KeyboardInterrupt:  # it has been interrupted as well
        _end(process)
        return "interrupted", False
    if status < 0:
        return f"ended by signal {-status}", True
    return (f"exit status {status}" if status else ""), True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a benchmark as Ctrl-C does, so that it ends the servers that it started; else kill it."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        kill_tree(process.pid)
        process.wait()


def _show(runs: list[Run], whole_s: float) -> None:
    """Print the table: the figures by goal, those without one last; then how each benchmark went
    and how long it took.
    """
    figures: list[Figure] = [figure for run in runs for figure in run.figures]
    print(f"\n{HEAD}")
    for figure in sorted(figures, key=lambda figure: (figure.goal is None, figure.goal or 0)):
        print(figure.line())
    print()
    for run in runs:
        print(run.line())
    print(f"{'all':<14} {whole_s:>8.1f} s", flush=True)


if __name__ == "__main__":
    main()
