"""The daemon's end of what its engine process asks (:mod:`syndb_common.engine.asking`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
import trio

from syndb_common.engine.asking import MAX_ASKED
from syndb_common.errors import DeadlineExceeded, LimitExceeded, NotFound, SynDBError, TooManyRequests

Answers = Mapping[str, Callable[..., Awaitable[dict[str, Any]]]]
"""What may be asked, and who answers it: called with the facts of the question as keywords."""

Send = Callable[[dict[str, Any]], Awaitable[None]]
_log = structlog.get_logger(__name__)


class Asked:
    """Answers the questions of one engine process, each in a task of its own, for as long as that process lives."""

    def __init__(self, answers: Answers, send: Send, nursery: trio.Nursery) -> None:
        self._answers = answers
        self._send = send
        self._nursery = nursery
        self._scopes: dict[int, trio.CancelScope] = {}

    def take(self, header: dict[str, Any]) -> None:
        """Begin to answer a question, or stop: the one who asked has given up."""
        number = int(header["number"])
        if header["event"] == "forget":
            if (scope := self._scopes.get(number)) is not None:
                scope.cancel()
            return
        self._scopes[number] = trio.CancelScope()
        self._nursery.start_soon(self._answer, number, header)

    async def _answer(self, number: int, header: dict[str, Any]) -> None:
        reply: dict[str, Any] = {}
        try:
            with self._scopes[number]:
                reply = {"reply": await self._result(header)}
        except SynDBError as error:
            reply = {"error": error.to_body().model_dump()}
        except Exception:
            _log.exception("a question of the engine process could not be answered", what=header["what"])
            reply = {"error": SynDBError("the daemon failed; its log has the details").to_body().model_dump()}
        finally:
            self._scopes.pop(number, None)
        if not reply:
            return
        frame = {"id": 0, "op": "reply", "number": number}
        try:
            await self._send({**frame, **reply})
        except LimitExceeded as error:
            await self._send({**frame, "error": error.to_body().model_dump()})

    async def _result(self, header: dict[str, Any]) -> dict[str, Any]:
        if len(self._scopes) > MAX_ASKED:
            raise TooManyRequests("too much is being asked", hint="try again in a moment")
        answer = self._answers.get(header["what"])
        if answer is None:
            raise NotFound(f"this daemon does not know about {header['what']}")
        with trio.move_on_after(header["seconds"]):
            return await answer(**header["facts"])
        raise DeadlineExceeded(f"no answer within {header['seconds']:g} seconds")
