"""What a benchmark found: figures with their goals, printed at once and collected for one table."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

COLLECTED = "BENCH_COLLECTED"
"""Names the file that `python -m benchmarks` has each benchmark append its figures to.

Not a name of the product's settings: those refuse what they do not know.
"""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure: `measured` against `raw`, both in `unit`, as their ratio.

    `goal` is the number of the goal in shared/PERFORMANCE.md, None where the figure belongs to
    none; `limit` is the ratio to reach, `at_most` where a smaller ratio is better. Without a limit
    the figure is there to be looked at.
    """

    goal: int | None
    what: str
    measured: float
    raw: float
    unit: str
    ratio: float
    limit: float | None = None
    at_most: bool = False

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.limit is None:
            return ""
        reached = self.ratio <= self.limit if self.at_most else self.ratio >= self.limit
        return "reached" if reached else "MISSED"

    def line(self) -> str:
        """The figure as a line of the table."""
        sign = "<=" if self.at_most else ">="
        wanted = "" if self.limit is None else f"{sign} {self.limit:g}"
        goal = "" if self.goal is None else self.goal
        return (
            f"{goal:>4}  {self.what:<58} {self.measured:>12,.6g} {self.raw:>12,.6g}"
            f" {self.unit:<6} {self.ratio:>8.3g}  {wanted:<8} {self.verdict}"
        )


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """How one benchmark went: what it found, how long it took, and what is wrong, if anything."""

    name: str
    took_s: float
    failure: str
    figures: list[Figure]

    def line(self) -> str:
        """The run as a line behind the table."""
        failure = f"  FAILED: {self.failure}" if self.failure else ""
        return f"{self.name:<14} {self.took_s:>8.1f} s{failure}"


HEAD = (
    f"{'goal':>4}  {'what':<58} {'measured':>12} {'raw':>12} {'unit':<6} {'ratio':>8}"
    f"  {'wanted':<8} verdict"
)


def report(figure: Figure) -> None:
    """Print a figure, and note it for the table of the whole run."""
    print(figure.line(), flush=True)
    file = os.environ.get(COLLECTED)
    if file:
        with Path(file).open("ab") as collected:
            collected.write(msgspec.json.encode(figure) + b"\n")


def compare(
    goal: int | None,
    what: str,
    measured: float,
    raw: float,
    unit: str,
    *,
    limit: float | None = None,
    at_most: bool = False,
) -> None:
    """Report `measured / raw`."""
    report(
        Figure(
            goal=goal,
            what=what,
            measured=measured,
            raw=raw,
            unit=unit,
            ratio=measured / raw,
            limit=limit,
            at_most=at_most,
        )
    )


def collected(file: Path) -> list[Figure]:
    """Return the figures that a benchmark noted; what it was killed while writing is left out."""
    if not file.exists():
        return []
    whole, _, _ = file.read_bytes().rpartition(b"\n")
    return [msgspec.json.decode(line, type=Figure) for line in whole.splitlines()]
