"""The agent as it is installed on a host: `python -m hostagent` needs nothing but its own bundle.

`chronovisor agent` does the same where all of Chronovisor is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import sys
from pathlib import Path

import msgspec
import structlog

from hostagent.files import read_bounded
from hostagent.identity import UnknownMachineError, read_hardware_id
from hostagent.join import (
    KEY_NAME,
    JoinRefusedError,
    join,
    load_joined,
    load_key,
    public_key_sha256,
)
from hostagent.options import read_options, real_agent
from hostagent.process import run_agent

ERROR, REFUSED = 1, 3
NEEDED = ("hostagent.libvirt_driver",)


def main(words: list[str] | None = None) -> int:
    """Do what the arguments say; return the exit code."""
    arguments = _parser().parse_args(words)
    _log_to_stderr()
    try:
        return int(arguments.do(arguments))
    except JoinRefusedError as error:
        _say(str(error))
        return REFUSED
    except (UnknownMachineError, ImportError, OSError, ValueError) as error:
        _say(f"{type(error).__name__}: {error}")
        return ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hostagent", description="Chronovisor's host agent.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, do, text in (
        ("check", _check, "see that everything that the agent needs is there"),
        ("identity", _identity, "show which host this machine is, as JSON"),
        ("join", _join, "join as a host, with a token"),
        ("run", _run, "run until SIGTERM"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.set_defaults(do=do)
        verb.add_argument("--dir", type=Path, required=name != "check", help="the state folder")
        if name == "join":
            verb.add_argument("--url", required=True, help="the engine's API")
            verb.add_argument("--token-file", type=Path, required=True)
            verb.add_argument("--timeout", type=float, default=120.0, help="in seconds")
    return parser


def _check(_arguments: argparse.Namespace) -> int:
    for name in NEEDED:
        importlib.import_module(name)
    return 0


def _identity(arguments: argparse.Namespace) -> int:
    joined = load_joined(arguments.dir)
    found: dict[str, str] = {}
    if joined is not None:
        key = load_key(read_bounded(arguments.dir / KEY_NAME))
        found = {"host": joined.host, "name": joined.name, "key": public_key_sha256(key)}
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    return 0


def _join(arguments: argparse.Namespace) -> int:
    options = read_options(arguments.dir)
    joined = asyncio.run(
        join(
            arguments.url,
            arguments.token_file.read_text("ascii").strip(),
            arguments.dir,
            hardware=options.hardware or read_hardware_id(),
            approval_timeout_s=arguments.timeout,
        )
    )
    _say(f"joined as host {joined.name} ({joined.host})")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    options = read_options(arguments.dir)
    process = real_agent(
        arguments.dir,
        options.libvirt,
        storage=Path(options.storage) if options.storage is not None else None,
        hardware=options.hardware,
        time_scale=options.time_scale,
        status=options.status,
        migration=options.migration,
    )
    asyncio.run(run_agent(process))
    return 0


def _log_to_stderr() -> None:
    """Log as Chronovisor's other processes do: JSON lines to standard error."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
