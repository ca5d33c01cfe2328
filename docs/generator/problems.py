"""problems.md: every problem that the API can answer with."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import commands
import projections.reads
from commands.kernel.refusal import registered_refusals
from docs.generator import words
from projections.reads.problems import Problem

PREAMBLE = """
A request that is not answered as asked is answered with a problem (RFC 9457, media type
`application/problem+json`): `type` is one of the words below, `title` its meaning, `detail` says
what is wrong with this request, and `remedy` what can be done about it. Some carry more fields,
such as `field`, the name of the field at fault.
"""


def page() -> list[str]:
    """The lines of the page."""
    _import_all(commands)
    _import_all(projections.reads)
    known: dict[str, tuple[str, int]] = {}
    for slug, refusal in registered_refusals().items():
        known[slug] = (refusal.title(), refusal.status)
    for problem in _subclasses(Problem):
        title = (problem.__doc__ or "").splitlines()[0].rstrip(".")
        known.setdefault(problem.slug(), (title, problem.status))
    lines = [*words.heading(1, "Problems"), *words.paragraph(PREAMBLE)]
    for status in sorted({status for _, status in known.values()}):
        lines += words.heading(2, f"Status {status}")
        for slug, (title, its_status) in sorted(known.items()):
            if its_status == status:
                lines += [*words.heading(3, slug), f"{title}.", ""]
    return lines


def _import_all(package: ModuleType) -> None:
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(found.name)


def _subclasses(cls: type[Problem]) -> list[type[Problem]]:
    """All problems that requests can meet: a class that others refine is none itself."""
    found: list[type[Problem]] = []
    for one in cls.__subclasses__():
        deeper = _subclasses(one)
        found += deeper or [one]
    return found
