"""Running a process of the product: logging, signals, and tasks that end together."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
import uvloop

from chronovisor.supervisor_parts import BROKEN_SETTING_EXIT_CODE

_HANDLED = (signal.SIGINT, signal.SIGTERM)


class _QuietStream:
    """Standard error that bears a full disk: a log line is worth less than the process."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure_logging(*, quiet: bool = False) -> None:
    """Log JSON lines to standard error, from structlog and from libraries alike.

    `quiet` leaves out what is below a warning: for a terminal that shows progress its own way.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.WARNING if quiet else logging.INFO
        ),
        logger_factory=structlog.PrintLoggerFactory(_QuietStream()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)


def run_part(name: str, main: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run a process until a signal asks it to stop, or it fails.

    `main` gets an event that is set when it should end; it is cancelled if it does not within 10 s.
    Exits with 78 where `main` raises a SettingsError: starting again would not help.
    """
    from chronovisor.settings import SettingsError  # noqa: PLC0415 - only for its exit code

    configure_logging()
    log = structlog.get_logger(name)

    async def body() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in _HANDLED:
            loop.add_signal_handler(number, stop.set)
        await _until_stopped(main, stop)

    # What is loaded by now stays for ever: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
    try:
        uvloop.run(body())
    except SettingsError as error:
        log.error("a setting is wrong", reason=str(error))  # noqa: TRY400 - no traceback needed
        raise SystemExit(BROKEN_SETTING_EXIT_CODE) from None
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        log.exception("the process failed")
        log.error("the process ends", reason=f"{type(error).__name__}: {error}")  # noqa: TRY400
        raise SystemExit(1) from None


async def _until_stopped(
    main: Callable[[asyncio.Event], Coroutine[Any, Any, None]], stop: asyncio.Event
) -> None:
    task = asyncio.ensure_future(main(stop))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        await asyncio.wait([task], timeout=10)
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def together(stop: asyncio.Event, *works: Coroutine[Any, Any, Any]) -> None:
    """Run coroutines beside each other until `stop`; if one fails, all end and it is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    stopped = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopped}:
            task.result()
    finally:
        for task in (stopped, *tasks):
            task.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)
