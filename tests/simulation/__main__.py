"""`python -m tests.simulation --seeds N --first S`: run N seeds; a seed that fails tells its story.

A seed runs the same every time only where strings hash the same, so that is seen to first.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import time

HASH_SEED = "0"


def say(text: str) -> None:
    """Tell whoever runs this."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Run the seeds that were asked for; the exit status tells whether all promises held."""
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        environment = os.environ | {"PYTHONHASHSEED": HASH_SEED}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606
    from tests.simulation import every_step  # noqa: PLC0415
    from tests.simulation.run import simulate  # noqa: PLC0415
    from tests.simulation.scenes import SCENES  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--verbose", action="store_true", help="tell every seed's story")
    parser.add_argument("--every-step", action="store_true", help="kill at every step instead")
    parser.add_argument("--scene", action="append", help="of every step: these scenes alone")
    parser.add_argument("--stride", type=int, default=1, help="of every step: each n-th alone")
    parser.add_argument("--every-turn", action="store_true", help="of every step: play all turns")
    options = parser.parse_args()
    if options.every_step:
        scenes = options.scene or sorted(SCENES)
        every_turn = options.every_turn
        return 1 if every_step.run(scenes, options.stride, say, every_turn=every_turn) else 0
    failed = []
    names: collections.Counter[str] = collections.Counter()
    met: collections.Counter[str] = collections.Counter()
    for seed in range(options.first, options.first + options.seeds):
        begun = time.monotonic()
        result = simulate(seed, options.hosts)
        took_s = time.monotonic() - begun
        names.update(result.names)
        met.update(result.met)
        if result.broken or options.verbose:
            say("\n".join(result.told))
        say(
            f"seed {seed}: {result.events} events, {result.commands} commands"
            f" ({result.refused} refused), log {result.digest[:16]}, {took_s:.1f} s"
        )
        for text in result.broken:
            say(f"  BROKEN: {text}")
        if result.broken:
            failed.append(seed)
    if options.verbose:
        say("\n".join(f"{count:8} {name}" for name, count in names.most_common()))
    say("met: " + ", ".join(f"{count} {name}" for name, count in sorted(met.items())))
    if failed:
        say(f"failed seeds: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
