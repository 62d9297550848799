"""What every daemon does around its work: logging, systemd's notifications, signals, exit codes.

Errors that a person can act on leave the process as one line and an exit code of their own; a traceback is for
the log only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator

import structlog
import trio

from syndb_common import tracing
from syndb_common.errors import SynDBError

log = structlog.get_logger(__name__)

STOP_SECONDS = 10.0
"""How long a daemon may take to stop after SIGTERM before it is ended the hard way. systemd waits 90 s by default."""


_least_level = logging.INFO


def set_log_level(level: str) -> None:
    """The least level that is logged from now on: ``debug``, ``info``, ``warning`` or ``error``."""
    global _least_level
    _least_level = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)


def configure_logging(level: str = "info") -> None:
    """Structured logs on standard error: readable on a terminal, one JSON object per line elsewhere."""
    set_log_level(level)
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            _only_from_level,
            structlog.contextvars.merge_contextvars,
            _name_work,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")


def _only_from_level(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What is below the present level is dropped here and not by the loggers, which keep the level they began with."""
    if logging.getLevelNamesMapping().get(method.upper(), logging.CRITICAL) < _least_level:
        raise structlog.DropEvent
    return event


def _name_work(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Every line says which request it belongs to, at the hub and at its nodes, and which trace if there is one."""
    work = tracing.current_work.get()
    if work is not None:
        event.setdefault("request_id", work.request_id)
        if work.traceparent:
            event.setdefault("trace_id", work.traceparent.split("-")[1])
    return event


def notify(state: str) -> None:
    """Tell systemd about us (``READY=1``, ``STOPPING=1``, ``WATCHDOG=1``); nothing happens without systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock, contextlib.suppress(OSError):
        sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


async def watchdog() -> None:
    """Keep systemd's watchdog quiet as long as the trio loop turns; returns at once without a watchdog."""
    interval = float(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 / 2
    while interval > 0:
        notify("WATCHDOG=1")
        await trio.sleep(interval)


def run_daemon(serve: Callable[[trio.TaskStatus[None]], Awaitable[None]]) -> int:
    """Run ``serve`` until SIGTERM or SIGINT; return the exit code.

    ``serve`` reports through its task status when the daemon can work. It is cancelled by the first signal and has
    :data:`STOP_SECONDS` to end; a second signal ends the process at once.
    """

    async def main() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:

                async def wait_for_signal() -> None:
                    async for number in signals:
                        # From here on the system ends us, also when Python no longer comes to run anything.
                        for fatal in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
                            signal.signal(fatal, signal.SIG_DFL)
                        signal.setitimer(signal.ITIMER_REAL, STOP_SECONDS)
                        log.info("stopping", signal=signal.Signals(number).name)
                        notify("STOPPING=1")
                        nursery.cancel_scope.cancel()
                        break

                nursery.start_soon(wait_for_signal)
                nursery.start_soon(watchdog)
                await nursery.start(_serve_then_cancel, nursery, serve)
                notify("READY=1")

    with report_errors() as outcome:
        trio.run(main)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return outcome.code


async def _serve_then_cancel(
    nursery: trio.Nursery,
    serve: Callable[[trio.TaskStatus[None]], Awaitable[None]],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    await serve(task_status)
    nursery.cancel_scope.cancel()


class Outcome:
    """How a process ends: its exit code."""

    code: int = 0


@contextlib.contextmanager
def report_errors() -> Iterator[Outcome]:
    """Turn errors of ours into one line on standard error and an exit code; anything else is logged and exits 1."""
    outcome = Outcome()
    try:
        yield outcome
    except BaseException as error:
        known = first_error(error)
        if known is not None:
            sys.stderr.write(f"error: {known.message}\n" + (f"  {known.hint}\n" if known.hint else ""))
            outcome.code = known.exit_code
        elif isinstance(error, KeyboardInterrupt):
            outcome.code = 130
        elif isinstance(error, Exception | BaseExceptionGroup):
            log.exception("unexpected error; please report it", exc_info=error)
            outcome.code = 1
        else:
            raise


def first_error(error: BaseException) -> SynDBError | None:
    """The first error of ours in an exception, its group or its causes; None when there is none."""
    pending: list[BaseException] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, SynDBError):
            return current
        if isinstance(current, BaseExceptionGroup):
            pending.extend(current.exceptions)
        if current.__cause__ is not None:
            pending.append(current.__cause__)
    return None
