"""Asking an actor of another daemon as if it were here.

On a stream of ``/syndb/rpc/1`` requests and responses take turns, each one frame (:mod:`actors.remote.frames`,
:mod:`actors.remote.envelope`). A client keeps some streams to a peer open (:mod:`actors.remote.peers`); each carries
one request at a time, and one on which anything went wrong is reset and never used again.

A missed deadline or a lost stream does not mean that nothing was executed: the receiver remembers recent requests
(:mod:`actors.remote.replay`), and idempotent messages are sent again with the same id. All others are sent at most
once. QUIC does not notice that the process at the other end is gone. So after a missed deadline the
kept streams are dropped, the next request has to open one, which takes an answer, and if none comes at once the
connection is closed and dialled afresh: whoever else waits on it learns of it then.

The server looks at a request in this order: can it be read, is its message known, may this peer send it
(:mod:`actors.remote.policy`), is its body valid, is there an actor for it. Each refusal is a typed error.

A peer of the version before refuses ours before it looks at the body. It is then spoken to in its own version, on that
connection; the refused message was not executed, so any message may be sent again.

The name of the work that is under way (:mod:`syndb_common.tracing`) goes with every request, and from here on with
every message between actors.
"""

from __future__ import annotations

import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog
import trio
from pydantic import BaseModel, ValidationError
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential, wait_random

from actors.remote.envelope import (
    ID_BYTES,
    Request,
    Response,
    decode_request,
    decode_response,
    encode_error,
    encode_reply,
    encode_request,
)
from actors.remote.frames import MAX_FRAME_BYTES, FrameTooLarge, StreamEnded
from actors.remote.peers import MAX_CONTROLS_PER_PEER, MAX_PEERS, MAX_QUERIES_PER_PEER, Peer, Peers
from actors.remote.policy import Policy
from actors.remote.replay import Execution, RecentAnswers
from actors.remote.transport import Frames, Transport
from actors.runtime import ActorError, ActorRef, ActorStoppedError, AskTimeout, MailboxFull, carry
from syndb_common.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    LimitExceeded,
    NotSupported,
    PeerUnavailable,
    SynDBError,
    TooManyRequests,
    Unavailable,
)
from syndb_common.messages import MESSAGES, PROTOCOL_VERSION, Message
from syndb_common.metrics import RPC_ANSWERED, RPC_SENT, timed
from syndb_common.tracing import current_work, span

carry(current_work)

PROTOCOL = "/syndb/rpc/1"

FIRST_FRAME_SECONDS = 10.0
"""A stream is opened to send a request; one without costs a place."""

SERVER_IDLE_SECONDS = 90.0
"""How long a server keeps an idle stream: longer than clients keep it, so that they are the ones to drop it."""

SEND_SECONDS = 10.0

MAX_REFUSED_IN_A_ROW = 5
"""After so many requests that were not let in, a stream is reset: who means well has learned by then."""

MAX_STRAY_ANSWERS = 8
"""Answers to earlier requests that are passed over on a stream; a peer that sends more has lost its way."""

REPEAT_SECONDS = 10.0
"""An idempotent message is begun again for so long, within its deadline: a daemon restarts in less."""

FIRST_PAUSE_SECONDS = 0.25
"""Doubled after each attempt, and a random part of it on top, so that many nodes do not come back in step."""

OPEN_SECONDS = 2.0
"""For a new stream on a connection that stands: three small round trips. A daemon whose loop is stuck for longer is as
good as gone."""

CONNECT_SECONDS = 5.0
"""For all addresses of a peer together, so that one who waits for long learns soon that nobody is there."""

UNKNOWN_MESSAGE = "unknown message"
VERSION_REFUSED = "protocol version {} is not spoken here"
"""By these words a daemon of any version says that ours is too new; they are part of the protocol."""

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
        recent = self._recent_answers(peer_id)
        known = recent.find(request.id)
        if known is None:
            with recent.executing(request.id) as execution:
                execution.kept = not kind.changes_nothing
                execution.answer = answer = await self._execute(request, kind, peer_id, execution)
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

    async def _execute(self, request: Request, kind: type[Message], peer_id: str, execution: Execution) -> bytes:
        try:
            with timed(RPC_ANSWERED, request.type), span(request.type):
                answer = encode_reply(request.id, await self._ask(request, kind, peer_id))
        except SynDBError as error:
            # Who is asked to come again must not meet the same refusal then.
            execution.kept = execution.kept and not isinstance(error, TooManyRequests)
            return encode_error(request.id, error)
        except ActorError as error:
            execution.kept = execution.kept and error.message is None  # else it has not begun
            if (said := _translated(error)) is not None:
                return encode_error(request.id, said)
            log.exception("request_failed", type=request.type, peer=peer_id)
        except Exception:
            log.exception("request_failed", type=request.type, peer=peer_id)
        else:
            if len(answer) <= MAX_FRAME_BYTES:
                return answer
            too_large = LimitExceeded(f"the answer has {len(answer)} bytes, at most {MAX_FRAME_BYTES} fit")
            return encode_error(request.id, too_large)
        return encode_error(request.id, SynDBError("internal error", hint="the other daemon's log says more"))

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


class RpcClient:
    """Sends requests to other daemons, on streams it keeps open.

    Args:
        host: our place on the network.
        max_queries: queries under way to one peer; more wait.
        max_controls: other messages under way to one peer.
        max_peers: how many peers are remembered.
    """

    def __init__(
        self,
        host: Transport,
        *,
        max_queries: int = MAX_QUERIES_PER_PEER,
        max_controls: int = MAX_CONTROLS_PER_PEER,
        max_peers: int = MAX_PEERS,
    ) -> None:
        self._host = host
        self._peers = Peers(max_queries=max_queries, max_controls=max_controls, max_peers=max_peers)

    async def ask(
        self,
        peer_id: str,
        addresses: Sequence[str],
        message: Message,
        *,
        timeout: float,  # noqa: ASYNC109 - it travels with the message
    ) -> Any:
        """Send ``message`` and wait for its reply; the work of the calling task is named along with it.

        An idempotent message is sent again, with the same request id, when the peer cannot be reached, is lost or has
        no room: with growing pauses, for up to ``REPEAT_SECONDS``. Any other is sent at most once.

        Args:
            peer_id: who must answer.
            addresses: where to dial if no connection stands.
            message: one of :data:`syndb_common.messages.MESSAGES`.
            timeout: seconds for everything: waiting for a place, connecting, the answer, pauses.

        Returns:
            An instance of the message's ``reply_type``.

        Raises:
            DeadlineExceeded: no answer in time. The message may have been executed.
            PeerUnavailable: the peer cannot be reached, or was lost. The message may have been executed.
            LimitExceeded: the message is larger than a frame; nothing was sent.
            SynDBError: what the other side answered.
        """
        if not 0 < timeout < math.inf:
            raise ValueError(f"an ask needs a finite timeout above 0, not {timeout}")
        name = type(message).__name__
        with timed(RPC_SENT, name), span(f"ask {name}"):
            return await self._request(peer_id, addresses, message, timeout)

    async def _request(self, peer_id: str, addresses: Sequence[str], message: Message, timeout: float) -> Any:  # noqa: ASYNC109
        deadline = trio.current_time() + timeout
        peer = self._peers.get(peer_id)
        self._drop(self._peers.surplus())
        request_id = secrets.token_bytes(ID_BYTES)
        try:
            if message.idempotent:
                again = _retrying(deadline)
                body: Any = await again(self._attempt, peer, addresses, request_id, message, deadline)
            else:
                body = await self._attempt(peer, addresses, request_id, message, deadline)
        except trio.TooSlowError:
            self._drop(peer.take_all())
            raise DeadlineExceeded(f"{peer_id} did not answer {type(message).__name__} within {timeout:g} s") from None
        except StreamEnded:
            raise PeerUnavailable(
                f"{peer_id} closed the stream while {type(message).__name__} was under way",
                hint="it may have been executed",
            ) from None
        except FrameTooLarge as error:
            raise LimitExceeded(f"{type(message).__name__}: {error}") from None
        try:
            return message.reply_type.model_validate(body)
        except ValidationError as error:
            raise SynDBError(f"{peer_id} answered what is no {message.reply_type.__name__}") from error

    async def _attempt(
        self, peer: Peer, addresses: Sequence[str], request_id: bytes, message: Message, deadline: float
    ) -> Any:
        """Send the message, on a stream that is kept or else a new one; the body of the answer.

        Whatever waits in here has its own deadline: one more around it all would cost each ask some microseconds.
        """
        places = peer.places(message)
        await places.take(deadline)
        try:
            stream, stale = peer.take()
            self._drop(stale)
            if stream is not None:
                try:
                    return await self._once(peer, stream, request_id, message, deadline)
                except StreamEnded:
                    if not message.idempotent:
                        raise
            stream = await self._open(peer.id, addresses, deadline)
            return await self._once(peer, stream, request_id, message, deadline)
        finally:
            places.leave()

    async def _once(self, peer: Peer, stream: Frames, request_id: bytes, message: Message, deadline: float) -> Any:
        """One request and its answer; the stream is kept if both went well, and dropped if anything did not."""
        usable = False
        try:
            version = peer.version(stream)
            response = await self._exchange(stream, version, request_id, message, deadline)
            if version == PROTOCOL_VERSION and _is_older(response.error):
                peer.speaks_older(stream)
                response = await self._exchange(stream, PROTOCOL_VERSION - 1, request_id, message, deadline)
            usable = True
        finally:
            if usable:
                peer.keep(stream)
            else:
                self._drop([stream])
        if response.error is not None:
            raise response.error
        return response.body

    async def _exchange(
        self, stream: Frames, version: int, request_id: bytes, message: Message, deadline: float
    ) -> Response:
        """Send the message in a protocol version that has it, and read the response to it."""
        if message.since > version:
            return Response(request_id, error=_too_new(message, stream.peer_id))
        work = current_work.get()
        frame = encode_request(request_id, message, seconds=_left(deadline), work=work, version=version)
        await stream.send(frame, timeout=_left(deadline))
        for _ in range(1 + MAX_STRAY_ANSWERS):
            response = decode_response(await stream.receive(timeout=_left(deadline)))
            if response.id in (request_id, b""):
                return response
        raise StreamEnded

    async def _open(self, peer_id: str, addresses: Sequence[str], deadline: float) -> Frames:
        """A new stream, which also shows that a connection that stands leads to somebody."""
        if self._host.is_connected(peer_id):
            left = _left(deadline)
            try:
                return await self._host.open_stream(peer_id, PROTOCOL, timeout=min(OPEN_SECONDS, left / 2))
            except PeerUnavailable:
                await self._host.disconnect(peer_id)
        left = _left(deadline)
        await self._host.connect(peer_id, addresses, timeout=min(CONNECT_SECONDS, left))
        return await self._host.open_stream(peer_id, PROTOCOL, timeout=_left(deadline))

    def _drop(self, streams: Iterable[Frames]) -> None:
        for stream in streams:
            self._host.reset_soon(stream)


class RemoteRef(ActorRef):
    """A reference to an actor of another daemon.

    There is no ``tell``: a message that crosses a network can be lost without anybody knowing, so ask, and ignore the
    answer if it does not matter.

    Args:
        client: sends the requests.
        peer_id: the daemon.
        addresses: where it can be dialled at this moment.
        name: the actor's name, for people; the message's type decides who handles it.
    """

    def __init__(self, client: RpcClient, peer_id: str, addresses: Callable[[], Sequence[str]], name: str) -> None:
        self.name = name
        self.peer_id = peer_id
        self._client = client
        self._addresses = addresses

    def __repr__(self) -> str:
        return f"<RemoteRef {self.name!r} at {self.peer_id}>"

    async def ask(self, message: Message, *, timeout: float, sender: object = None) -> Any:  # noqa: ASYNC109
        """Send ``message`` to the other daemon and wait for its reply; see :meth:`RpcClient.ask`.

        ``sender`` is not sent: the other side sees this daemon's PeerId, which the connection proved.
        """
        return await self._client.ask(self.peer_id, self._addresses(), message, timeout=timeout)

    def tell(self, message: Message, *, sender: object = None) -> None:
        """Not offered over a network.

        Raises:
            NotSupported: always.
        """
        raise NotSupported(f"{self.name!r} is at another daemon: ask it, and ignore the answer")


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


def _is_older(error: SynDBError | None) -> bool:
    """Whether a peer refused our version, or a message that every peer of our version knows."""
    return isinstance(error, InvalidRequest) and (
        error.message == VERSION_REFUSED.format(PROTOCOL_VERSION) or error.message.startswith(UNKNOWN_MESSAGE)
    )


def _too_new(message: Message, peer_id: str) -> NotSupported:
    return NotSupported(
        f"{peer_id} is of an older version and does not know {type(message).__name__}",
        hint="its operator can upgrade it; everything else goes on meanwhile",
    )


def _retrying(deadline: float) -> AsyncRetrying:
    """Repeats what was lost or had no room, unless that would begin after the deadline."""
    last = min(deadline, trio.current_time() + REPEAT_SECONDS)
    return AsyncRetrying(
        sleep=trio.sleep,
        retry=retry_if_exception_type((StreamEnded, PeerUnavailable, TooManyRequests)),
        wait=wait_exponential(multiplier=FIRST_PAUSE_SECONDS) + wait_random(0, FIRST_PAUSE_SECONDS),
        stop=lambda state: trio.current_time() + state.upcoming_sleep >= last,
        reraise=True,
    )


def _left(deadline: float) -> float:
    """Seconds until ``deadline``, never quite nothing: that is what the enclosing deadline is for."""
    return max(deadline - trio.current_time(), 0.001)


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
