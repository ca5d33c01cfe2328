"""`python -m chronovisor.parts NAME --dir DIR`: one process of the product.

Kept apart from the CLI, so that a process carries only what it needs.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
from pathlib import Path
from typing import Any

from chronovisor.installation import Installation
from chronovisor.running import run_part

PARTS = ("engine", "policies", "projector", "relay", "dwh", "notifier", "fleet", "agent")


def main() -> None:
    """Run the part that the command line names."""
    parser = argparse.ArgumentParser(prog="chronovisor.parts")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--host", type=Path, default=None, help="the host's state folder")
    parser.add_argument("--libvirt", default=None, help="the libvirt URI of a real host")
    arguments = parser.parse_args()
    module: Any = importlib.import_module(f"chronovisor.parts.{arguments.part}")

    async def body(stop: asyncio.Event) -> None:
        installation = Installation.open(arguments.dir)
        if arguments.part == "agent":
            await module.run(installation, stop, arguments.host, arguments.libvirt)
        else:
            await module.run(installation, stop)

    run_part(arguments.part, body)


if __name__ == "__main__":
    main()
