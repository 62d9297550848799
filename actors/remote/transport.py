"""What RPC needs of a network: connections to peers named by PeerId, and streams of frames on them.

:class:`actors.remote.host.Host` is libp2p, :class:`actors.remote.memory.MemoryHost` is the same within one process,
for tests and simulations.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol


class Frames(Protocol):
    """A stream of frames between two peers; see :class:`actors.remote.frames.FrameStream`."""

    peer_id: str

    @property
    def connection(self) -> object:
        """What all streams of one connection have in common, and no other has."""
        ...

    @property
    def over(self) -> bool:
        """Whether the stream has ended or failed and cannot carry another frame."""
        ...

    async def send(self, payload: bytes, *, timeout: float) -> None:  # noqa: ASYNC109
        """Send one frame."""
        ...

    async def receive(self, *, timeout: float) -> bytes:  # noqa: ASYNC109
        """The next frame's payload."""
        ...

    async def exchange(self, payload: bytes, *, timeout: float) -> bytes:  # noqa: ASYNC109
        """Send one frame and return the next one's payload."""
        ...

    async def reset(self) -> None:
        """End the stream at once."""
        ...

    async def close(self) -> None:
        """End the stream after what was sent has been delivered."""
        ...


Handler = Callable[[Frames], Awaitable[None]]


class Transport(Protocol):
    """A daemon's place on a network. All methods raise as those of :class:`actors.remote.host.Host`."""

    @property
    def peer_id(self) -> str:
        """Our own PeerId."""
        ...

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others reach us."""
        ...

    def set_handler(self, protocol: str, handler: Handler) -> None:
        """Answer streams of ``protocol``."""
        ...

    def is_connected(self, peer_id: str) -> bool:
        """Whether a connection is open. It may lead to a process that is gone."""
        ...

    def connection(self, peer_id: str) -> object | None:
        """The connection on which a stream to the peer would be opened now; none when not connected."""
        ...

    def observed_hosts(self, peer_id: str) -> tuple[str, ...]:
        """IP addresses from which the peer's present connections come; none for those through a relay."""
        ...

    async def connect(self, peer_id: str, addresses: Sequence[str], *, timeout: float) -> None:  # noqa: ASYNC109
        """Have a connection to ``peer_id``."""
        ...

    async def open_stream(self, peer_id: str, protocol: str, *, timeout: float) -> Frames:  # noqa: ASYNC109
        """A stream to a connected peer."""
        ...

    async def lost(self, peer_id: str) -> None:
        """Return as soon as the present connection to a peer has ended, or the peer gives no sign of life."""
        ...

    async def disconnect(self, peer_id: str, *, up_to: object | None = None) -> None:
        """Close the connections to the peer: all of them, or ``up_to`` one of them and what is older."""
        ...

    def reset_soon(self, stream: Frames) -> None:
        """Reset a stream without waiting for it."""
        ...
