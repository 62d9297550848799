"""Asking the hub's own actors from outside the tree: whatever goes wrong there is an error that clients understand."""

from __future__ import annotations

from typing import Any

from actors.runtime import ActorError, ActorRef, AskTimeout
from syndb_common.errors import DeadlineExceeded, Unavailable

ASK_SECONDS = 10.0
"""The registry writes a row; ten seconds cover a disk that is busy."""


async def ask(actor: ActorRef, message: object, *, seconds: float = ASK_SECONDS, sender: object = None) -> Any:
    """The actor's answer.

    Raises:
        SynDBError: what the actor refused the message with.
        DeadlineExceeded: no answer within ``seconds``.
        Unavailable: the actor is being restarted, or has no room.
    """
    try:
        return await actor.ask(message, timeout=seconds, sender=sender)
    except AskTimeout:
        raise DeadlineExceeded(f"the hub did not answer within {seconds:g} s", hint="Try again.") from None
    except ActorError as error:
        raise Unavailable(f"this part of the hub is not there right now: {error}", hint="Try again soon.") from error
