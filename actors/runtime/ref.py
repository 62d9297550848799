"""References: the only way to an actor, of one type whether it lives in this process or in another."""

# The timeout of `ask` is a parameter (ASYNC109 prefers the caller's cancel scope) because the deadline travels with
# the message: the actor skips what nobody waits for, and a remote one is told how long it has.

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import trio

from actors.runtime.errors import AskTimeout
from actors.runtime.mailbox import Call, Envelope, Mailbox


class ActorRef(ABC):
    """An address that messages are sent to. It stays valid while the actor behind it crashes and is restarted.

    Attributes:
        name: the actor's name, unique in its tree.
    """

    name: str

    @abstractmethod
    async def ask(self, message: Any, *, timeout: float, sender: object = None) -> Any:  # noqa: ASYNC109
        """Send ``message`` and wait for what its handler returns.

        While the mailbox is full this waits for room, within the same deadline. Giving up, by deadline or by
        cancellation, takes back a message that still waits and cancels a delegated task; a handler that has
        begun completes. An actor that asks itself from a handler only waits for its own deadline.

        Args:
            message: an instance of a type the actor handles.
            timeout: seconds, finite.
            sender: who asks, as the handler sees it in ``context.sender``; None for this process.

        Raises:
            AskTimeout: no answer in time.
            ActorCrashedError: the actor crashed while it held the message; ``__cause__`` says why.
            ActorStoppedError: it has stopped, or stopped before answering.
            UnhandledMessage: it has no handler for this type.
            MailboxFull: it has no room for another delegated task.
            Exception: what the handler raised of its ``expected`` types, or whatever its delegated task raised.
        """

    @abstractmethod
    def tell(self, message: Any, *, sender: object = None) -> None:
        """Send ``message`` and forget it. Never waits.

        Raises:
            MailboxFull: no room; the message is in ``error.message``.
            ActorStoppedError: the actor has stopped.
        """


class LocalRef(ActorRef):
    """A reference to an actor of this process and event loop."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.name = mailbox.name
        self._mailbox = mailbox

    def __repr__(self) -> str:
        return f"<LocalRef {self.name!r}>"

    async def ask(self, message: Any, *, timeout: float, sender: object = None) -> Any:  # noqa: ASYNC109
        if not timeout < math.inf:
            raise ValueError(f"an ask needs a finite timeout, not {timeout}")
        call = Call(trio.current_time() + timeout)
        envelope = Envelope(message, sender, call)
        with trio.CancelScope(deadline=call.deadline):
            try:
                await self._mailbox.put(envelope)
                return await call.wait()
            finally:
                if not call.settled:
                    call.abandon()
                    self._mailbox.take_back(envelope)
        raise AskTimeout(
            f"{self.name!r} did not answer {type(message).__name__} within {timeout:g} s",
            message=None if call.begun else message,
        )

    def tell(self, message: Any, *, sender: object = None) -> None:
        self._mailbox.put_nowait(Envelope(message, sender, None))
