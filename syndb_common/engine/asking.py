"""Questions of the engine process to its daemon, for what only the daemon knows: users, jobs, what a download may read.

A question is a frame ``{"id": 0, "event": "ask", "number", "what", "seconds", "facts"}``; the daemon answers with
``{"op": "reply", "number"}`` and either ``reply`` or ``error``. Who asked and gave up sends ``{"event": "forget"}``, so
that the daemon stops as well. The daemon's end is :mod:`syndb_common.engine.asked`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from syndb_common.errors import Cancelled, DeadlineExceeded, ErrorBody, SynDBError, TooManyRequests

QUICK_SECONDS: Final = 10.0
"""What a quick question may take, such as who presents a token; most are answered within milliseconds."""

MAX_QUICK: Final = 32
"""Quick questions under way; they have places of their own, which no query takes."""

MAX_LONG: Final = 64
"""Longer questions under way: queries that clients wait for. Each keeps a thread of Flight waiting."""

MAX_LONG_OF_ONE: Final = 16
"""Of these, how many one client may have."""

MAX_ASKED: Final = MAX_QUICK + MAX_LONG

LOOK_SECONDS: Final = 0.25
"""Between two looks at whether the client, for whom something is asked, is still there."""


@dataclass(slots=True)
class _Waiting:
    quick: bool
    whose: str
    done: threading.Event = field(default_factory=threading.Event)
    header: dict[str, Any] = field(default_factory=dict)


class Asker:
    """Asks the daemon from any thread. Answers come in by :meth:`settle`."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self._waiting: dict[int, _Waiting] = {}
        self._number = 0
        self._lock = threading.Lock()

    def ask(
        self, what: str, seconds: float, *, whose: str = "", gone: Callable[[], bool] = lambda: False, **facts: Any
    ) -> dict[str, Any]:
        """The daemon's answer to ``what``; blocks for at most ``seconds``, or until nobody is interested any more.

        ``whose`` names the client for whom it is asked.

        Raises:
            TooManyRequests: too much is being asked already, by all or for this client.
            DeadlineExceeded: the daemon did not answer in time.
            Cancelled: ``gone`` said so.
            SynDBError: what the daemon answered.
        """
        waiting = _Waiting(seconds <= QUICK_SECONDS, whose)
        with self._lock:
            self._check_room(waiting)
            self._number += 1
            number = self._number
            self._waiting[number] = waiting
        try:
            self._send({"id": 0, "event": "ask", "number": number, "what": what, "seconds": seconds, "facts": facts})
            deadline = time.monotonic() + seconds
            while not waiting.done.wait(min(LOOK_SECONDS, max(0.0, deadline - time.monotonic()))):
                if gone():
                    raise Cancelled("the client left")
                if time.monotonic() >= deadline:
                    raise DeadlineExceeded(f"the daemon did not answer within {seconds:g} seconds")
        finally:
            with self._lock:
                self._waiting.pop(number, None)
            if not waiting.done.is_set():
                self._send({"id": 0, "event": "forget", "number": number})
        if "error" in waiting.header:
            raise SynDBError.from_body(ErrorBody.model_validate(waiting.header["error"]))
        reply: dict[str, Any] = waiting.header["reply"]
        return reply

    def _check_room(self, waiting: _Waiting) -> None:
        alike = [each for each in self._waiting.values() if each.quick == waiting.quick]
        if len(alike) >= (MAX_QUICK if waiting.quick else MAX_LONG):
            raise TooManyRequests(f"{len(alike)} requests wait for the daemon", hint="try again in a moment")
        if not waiting.quick and sum(each.whose == waiting.whose for each in alike) >= MAX_LONG_OF_ONE:
            raise TooManyRequests(
                f"{MAX_LONG_OF_ONE} queries of yours are waited for already", hint="wait until some of them have ended"
            )

    def settle(self, header: dict[str, Any]) -> None:
        """Hand an answer to whoever waits for it, if anybody still does."""
        with self._lock:
            waiting = self._waiting.get(header["number"])
        if waiting is not None:
            waiting.header = header
            waiting.done.set()
