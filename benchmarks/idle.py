"""What `chronovisor up` costs while nothing happens: memory, processors, its start (goal 12).

`python -m benchmarks.idle [--seconds 8]`. One simulated host, no VM. Memory is PSS, so that what
processes share counts once; PostgreSQL and the supervisor are in it, as is the host's agent.
"""

from __future__ import annotations

import argparse
import time

from benchmarks._processes import memory_bytes, part_pids, processor_s
from benchmarks._report import compare
from tests.harness.workspace import Workspace
from tests.system.product import Product

GIB = 1024**3
SETTLED_S = 6.0


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(prog="benchmarks.idle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    seconds = parser.parse_args().seconds
    workspace = Workspace()
    try:
        product = Product(workspace, "idle")
        began = time.monotonic()
        product.start()
        first_s = time.monotonic() - began
        product.stop()
        began = time.monotonic()
        product.start()
        again_s = time.monotonic() - began
        time.sleep(SETTLED_S)
        pids = part_pids(product.root)
        supervisor = pids["supervisor"]
        before, began = processor_s(supervisor), time.monotonic()
        time.sleep(seconds)
        busy = (processor_s(supervisor) - before) / (time.monotonic() - began)
        for name, pid in sorted(pids.items()):
            if name != "supervisor":
                print(f"{name:<12} {memory_bytes(pid) / 2**20:8.1f} MiB", flush=True)
        memory = memory_bytes(supervisor)
        compare(12, "idle memory (PSS) of all", memory / GIB, 1.0, "GiB", limit=0.5, at_most=True)
        compare(12, "idle: processor time, of one core", busy, 1.0, "cores")
        compare(12, "start: the first one, over one of an existing folder", first_s, again_s, "s")
        product.stop()
    finally:
        workspace.close()


if __name__ == "__main__":
    main()
