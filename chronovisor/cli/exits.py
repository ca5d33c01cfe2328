"""Exit codes of the CLI, and how what went wrong is shown."""

from __future__ import annotations

import enum
import sys
from typing import Any, NoReturn

import msgspec
import typer


class Exit(enum.IntEnum):
    """What the CLI ends with."""

    OK = 0
    ERROR = 1
    USAGE = 2
    REFUSED = 3
    FAILED = 4
    TIMED_OUT = 5
    UNREACHABLE = 6


class CliError(Exception):
    """The command cannot go on: `message` says why, `code` is what the process ends with."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Refused(CliError):
    """The engine answered with a problem."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        code = Exit.ERROR
        if status == 503:  # noqa: PLR2004 - Service Unavailable
            code = Exit.UNREACHABLE
        elif 400 <= status < 500:  # noqa: PLR2004 - the client's side
            code = Exit.REFUSED
        super().__init__(problem_text(status, problem), code)
        self.status = status
        self.problem = problem


def problem_text(status: int, problem: dict[str, Any]) -> str:
    """Return a problem in words: what is wrong, and what can be done about it."""
    lines = [str(problem.get("title") or f"The engine answered with status {status}")]
    if problem.get("detail"):
        lines.append(f"  {problem['detail']}")
    if problem.get("remedy"):
        lines.append(f"  {problem['remedy']}")
    known = [str(problem["type"])] if problem.get("type") else []
    known.append(f"HTTP {status}")
    if problem.get("request_id"):
        known.append(f"request {problem['request_id']}")
    lines.append(f"  ({', '.join(known)})")
    return "\n".join(lines)


def fail(error: CliError, *, as_json: bool) -> NoReturn:
    """Show an error on standard error, and end."""
    if as_json:
        problem = error.problem if isinstance(error, Refused) else {"detail": error.message}
        sys.stderr.write(msgspec.json.encode(problem).decode() + "\n")
    else:
        typer.secho(error.message, err=True, fg=typer.colors.RED if sys.stderr.isatty() else None)
    raise typer.Exit(error.code)
