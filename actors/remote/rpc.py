"""Asking an actor of another daemon as if it were here.

On a stream of ``/syndb/rpc/1`` requests and responses take turns, each one frame (:mod:`actors.remote.frames`,
:mod:`actors.remote.envelope`). A client keeps some streams to a peer open (:mod:`actors.remote.peers`); each carries
one request at a time, and one on which anything went wrong is reset and never used again.

A missed deadline or a lost stream does not mean that nothing was executed: the receiver remembers recent requests
(:mod:`actors.remote.replay`), and idempotent messages are sent again with the same id. All others are sent at most
once. QUIC does not notice that the process at the other end is gone. So after a missed deadline the
kept streams are dropped, the next request has to open one, which takes an answer, and if none comes at once the
connection is closed and dialled afresh: whoever else waits on it learns of it then.

A peer of the version before refuses ours before it looks at the body. It is then spoken to in its own version, on that
connection; the refused message was not executed, so any message may be sent again.

The name of the work that is under way (:mod:`syndb_common.tracing`) goes with every request, and from here on with
every message between actors. The other end is :mod:`actors.remote.rpc_server`.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog
import trio
from pydantic import ValidationError
from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential, wait_random

from actors.remote.envelope import (
    ID_BYTES,
    Response,
    decode_response,
    encode_request,
)
from actors.remote.frames import FrameTooLarge, StreamEnded
from actors.remote.peers import MAX_CONTROLS_PER_PEER, MAX_PEERS, MAX_QUERIES_PER_PEER, Peer, Peers
from actors.remote.transport import Frames, Transport
from actors.runtime import ActorRef, carry
from syndb_common.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LimitExceeded,
    NotSupported,
    PeerUnavailable,
    SynDBError,
    TooManyRequests,
)
from syndb_common.messages import PROTOCOL_VERSION, Message
from syndb_common.metrics import RPC_SENT, timed
from syndb_common.tracing import current_work, span

carry(current_work)

PROTOCOL = "/syndb/rpc/1"

MAX_STRAY_ANSWERS = 8
"""Answers to earlier requests that are passed over on a stream; a peer that sends more has lost its way."""

REPEAT_SECONDS = 10.0
"""An idempotent message is begun again for so long, within its deadline: a daemon restarts in less."""

FIRST_PAUSE_SECONDS = 0.25
"""Doubled after each attempt, and a random part of it on top, so that many nodes do not come back in step."""

OPEN_SECONDS = 2.0
"""For a new stream on a connection that stands: three small round trips. A daemon whose loop is stuck for longer is as
good as gone."""

HURRIED_SECONDS = 0.5
"""A request with less time left does not take silence for the end of a connection, which others may be using well."""

CONNECT_SECONDS = 5.0
"""For all addresses of a peer together, so that one who waits for long learns soon that nobody is there."""

UNKNOWN_MESSAGE = "unknown message"
VERSION_REFUSED = "protocol version {} is not spoken here"
"""By these words a daemon of any version says that ours is too new; they are part of the protocol."""

log = structlog.get_logger()


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
            if trio.current_time() >= deadline:
                raise trio.TooSlowError
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
        response = decode_response(await stream.exchange(frame, timeout=_left(deadline)))
        strays = 0
        while response.id not in (request_id, b""):
            if strays == MAX_STRAY_ANSWERS:
                raise StreamEnded
            strays += 1
            response = decode_response(await stream.receive(timeout=_left(deadline)))
        return response

    async def _open(self, peer_id: str, addresses: Sequence[str], deadline: float) -> Frames:
        """A new stream, which also shows that a connection that stands leads to somebody."""
        while (tried := self._host.connection(peer_id)) is not None:
            left = _left(deadline)
            hurried = left < HURRIED_SECONDS
            try:
                patience = left if hurried else min(OPEN_SECONDS, left / 2)
                return await self._host.open_stream(peer_id, PROTOCOL, timeout=patience)
            except PeerUnavailable:
                if hurried and trio.current_time() >= deadline - 0.001:  # a sum of floats may fall short of it
                    raise trio.TooSlowError from None
                await self._host.disconnect(peer_id, up_to=tried)
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
