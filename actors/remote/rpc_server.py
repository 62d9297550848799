"""Answering other daemons' requests by asking actors of this one; the other end of :mod:`actors.remote.rpc`.

The server looks at a request in this order: can it be read, is its message known, may this peer send it
(:mod:`actors.remote.policy`), is its body valid, is there an actor for it. Each refusal is a typed error.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import structlog
import trio
from pydantic import BaseModel, ValidationError

from actors.remote.envelope import Request, decode_request, encode_error, encode_reply
from actors.remote.frames import MAX_FRAME_BYTES
from actors.remote.peers import MAX_PEERS
from actors.remote.policy import Policy
from actors.remote.replay import RecentAnswers
from actors.remote.rpc import PROTOCOL, UNKNOWN_MESSAGE, VERSION_REFUSED
from actors.remote.transport import Frames, Transport
from actors.runtime import ActorError, ActorRef, ActorStoppedError, AskTimeout, MailboxFull
from syndb_common.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    LimitExceeded,
    NotSupported,
    SynDBError,
    TooManyRequests,
    Unavailable,
)
from syndb_common.messages import MESSAGES, PROTOCOL_VERSION, Message
from syndb_common.metrics import RPC_ANSWERED, timed
from syndb_common.tracing import current_work, span

FIRST_FRAME_SECONDS = 10.0
"""A stream is opened to send a request; one without costs a place."""

SERVER_IDLE_SECONDS = 90.0
"""How long a server keeps an idle stream: longer than clients keep it, so that they are the ones to drop it."""

SEND_SECONDS = 10.0

MAX_REFUSED_IN_A_ROW = 5
"""After so many requests that were not let in, a stream is reset: who means well has learned by then."""

log = structlog.get_logger()


class _Refused(Exception):
    """A request that is not worked on, and what its sender is told."""

    def __init__(self, request_id: bytes, error: SynDBError) -> None:
        super().__init__(error.message)
        self.request_id = request_id
        self.error = error


class RpcServer:
    """Answers other daemons' requests by asking actors of this one.

    Args:
        host: where the protocol is offered, from construction on.
        policy: who may send what.
        routes: the actor for each message; one without gets a refusal.
    """

    def __init__(self, host: Transport, policy: Policy, routes: Mapping[type[Message], ActorRef]) -> None:
        self._policy = policy
        self._routes = routes
        self._recent: OrderedDict[str, RecentAnswers] = OrderedDict()
        host.set_handler(PROTOCOL, self._serve)

    async def _serve(self, stream: Frames) -> None:
        patience = FIRST_FRAME_SECONDS
        refused = 0
        while refused < MAX_REFUSED_IN_A_ROW:
            frame = await stream.receive(timeout=patience)
            try:
                request, kind = self._admit(frame, stream.peer_id)
                current_work.set(request.work)
                log.debug("asked", type=request.type, peer=stream.peer_id)
                answer = await self._answer(request, kind, stream.peer_id)
                log.debug("answered", type=request.type, peer=stream.peer_id)
                refused = 0
            except _Refused as refusal:
                answer = encode_error(refusal.request_id, refusal.error)
                refused += 1
            await stream.send(answer, timeout=SEND_SECONDS)
            patience = SERVER_IDLE_SECONDS

    def _admit(self, frame: bytes, peer_id: str) -> tuple[Request, type[Message]]:
        """The request in a frame, if the peer may send it now; every one that is refused counts against its rate."""
        request_id = b""
        try:
            request = decode_request(frame)
            request_id = request.id
            kind = _kind(request)
        except InvalidRequest as error:
            raise _Refused(request_id, self._policy.refusal(peer_id, error)) from None
        try:
            self._policy.admit(kind, peer_id)
        except SynDBError as error:
            raise _Refused(request_id, error) from None
        return request, kind

    async def _answer(self, request: Request, kind: type[Message], peer_id: str) -> bytes:
        """The response to one request, whatever happens."""
        if kind.changes_nothing:
            return (await self._execute(request, kind, peer_id))[0]
        recent = self._recent_answers(peer_id)
        known = recent.find(request.id)
        if known is None:
            with recent.executing(request.id) as execution:
                answer, execution.kept = await self._execute(request, kind, peer_id)
                execution.answer = answer
            if not len(recent):
                self._recent.pop(peer_id, None)
            return answer
        with trio.move_on_after(request.seconds):
            await known.ended()
        if known.answer is not None:
            return known.answer
        if known.done:
            return encode_error(request.id, Conflict("this request was executed and its answer is no longer kept"))
        return encode_error(request.id, DeadlineExceeded("this request is still being worked on"))

    async def _execute(self, request: Request, kind: type[Message], peer_id: str) -> tuple[bytes, bool]:
        """The response, and whether it is to be given again should the request come again."""
        kept = True
        try:
            with timed(RPC_ANSWERED, request.type), span(request.type):
                answer = encode_reply(request.id, await self._ask(request, kind, peer_id))
        except SynDBError as error:
            # Who is asked to come again must not meet the same refusal then.
            return encode_error(request.id, error), not isinstance(error, TooManyRequests)
        except ActorError as error:
            kept = error.message is None  # else it has not begun
            if (said := _translated(error)) is not None:
                return encode_error(request.id, said), kept
            log.exception("request_failed", type=request.type, peer=peer_id)
        except Exception:
            log.exception("request_failed", type=request.type, peer=peer_id)
        else:
            if len(answer) <= MAX_FRAME_BYTES:
                return answer, kept
            too_large = LimitExceeded(f"the answer has {len(answer)} bytes, at most {MAX_FRAME_BYTES} fit")
            return encode_error(request.id, too_large), kept
        failed = SynDBError("internal error", hint="the other daemon's log says more")
        return encode_error(request.id, failed), kept

    async def _ask(self, request: Request, kind: type[Message], peer_id: str) -> BaseModel:
        try:
            message = kind.model_validate(request.body)
        except ValidationError as error:
            raise InvalidRequest(f"{request.type} is not valid: {_first_fault(error)}") from None
        actor = self._routes.get(kind)
        if actor is None:
            raise NotSupported(f"{request.type} is not answered here")
        reply = await actor.ask(message, timeout=request.seconds, sender=peer_id)
        if not isinstance(reply, kind.reply_type):
            raise TypeError(f"{actor.name} answered {request.type} with {type(reply).__name__}")
        return reply

    def _recent_answers(self, peer_id: str) -> RecentAnswers:
        recent = self._recent.get(peer_id)
        if recent is None:
            recent = self._recent[peer_id] = RecentAnswers()
            if len(self._recent) > MAX_PEERS:
                unused = next((peer for peer, answers in self._recent.items() if not answers.busy), peer_id)
                del self._recent[unused]
        else:
            self._recent.move_to_end(peer_id)
        return recent


def _kind(request: Request) -> type[Message]:
    kind = MESSAGES.get(request.type)
    if kind is None:
        raise InvalidRequest(f"{UNKNOWN_MESSAGE} {request.type!r}", hint="is the daemon that asks newer?")
    if not PROTOCOL_VERSION - 1 <= request.version <= PROTOCOL_VERSION:
        raise InvalidRequest(
            VERSION_REFUSED.format(request.version),
            hint="hub and node may differ by one version; upgrade the older one",
        )
    return kind


def _translated(error: ActorError) -> SynDBError | None:
    """What an actor's failure means to another daemon; None for faults of this one."""
    if isinstance(error, AskTimeout):
        return DeadlineExceeded("no answer in time")
    if isinstance(error, MailboxFull):
        return TooManyRequests("too much is waiting here already", hint="wait some seconds")
    if isinstance(error, ActorStoppedError):
        return Unavailable("the part that answers this has stopped")
    return None


def _first_fault(error: ValidationError) -> str:
    """Where and what, without the value: it came from outside and may be long."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place}: {fault['msg']}"[:500]
