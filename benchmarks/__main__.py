"""`python -m benchmarks [NAME ...]`: run these benchmarks, or all, one by one."""

from __future__ import annotations

import argparse
import pkgutil
import subprocess
import sys

import benchmarks

TIMEOUT_S = 1_800


def names() -> list[str]:
    """The benchmarks that there are: the public modules of this package."""
    return sorted(
        found.name
        for found in pkgutil.iter_modules(benchmarks.__path__)
        if not found.name.startswith("_")
    )


def main() -> None:
    """Run each in a process of its own, so that none measures what another left behind."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names()))
    wanted = parser.parse_args().names or names()
    unknown = set(wanted) - set(names())
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    failed = []
    for name in wanted:
        print(f"--- {name}", flush=True)
        ran = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}"], check=False, timeout=TIMEOUT_S
        )
        if ran.returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
