"""Errors of the actor runtime: what happened to a message, or to the actor that should have handled it.

::

    ActorError
    ├── MailboxFull                  wait or shed load, then send ``error.message`` again
    ├── ActorStoppedError            the actor is gone for good
    ├── UnhandledMessage             the actor has no handler for this type
    ├── AskTimeout                   no answer within the deadline
    ├── ActorCrashedError            the actor crashed over the message, or while it held it
    ├── StopTimeout                  ``on_stop`` did not end in time
    ├── UnknownActor                 no actor of that name in the tree
    └── RestartIntensityExceeded     a supervisor gave up

An error that concerns a message has ``message``: the message itself when it has certainly not begun to be
handled, so that sending it again cannot execute it twice, and ``None`` when that is not certain.
"""

from __future__ import annotations


class ActorError(Exception):
    """Base of everything the runtime raises on purpose. Catch it where any failure to get an answer is the same.

    Attributes:
        message: the message handed back if it has certainly not begun to be handled, else None.
    """

    def __init__(self, text: str, *, message: object = None) -> None:
        super().__init__(text)
        self.message = message


class MailboxFull(ActorError):
    """The bounded mailbox, or the room for delegated tasks, is full; the message was not accepted.

    It is in ``message``. Slow down, drop it, or use ``ask``, which waits for room within its deadline. If it
    happens in normal work, the actor is too slow for its load: a larger mailbox only hides that for a while.
    """


class ActorStoppedError(ActorError):
    """The actor stopped before it answered. Do not retry on this reference unless a restart is known to follow.

    Raised for messages sent after a stop, still waiting at it, or cut off by it; ``message`` is None only for
    the last, since part of the work may have been done. When only a sibling's crash cut the message off, the
    actor comes back and the reference stays valid.
    """


class UnhandledMessage(ActorError):
    """The actor has no handler for this type of message. The sender is wrong, or speaks a newer protocol."""


class AskTimeout(ActorError):
    """No answer came within the deadline.

    ``message`` is set if it was still waiting: it has been taken back and will never be handled. Otherwise the
    handler had begun and may yet complete: ask again only what can be done twice.
    """


class ActorCrashedError(ActorError):
    """The actor crashed while it held the message; the message is lost and is never delivered again.

    ``__cause__`` is the exception that ended the actor. Its supervisor restarts it as its policy says and the
    reference stays valid. Repeat only what can be done twice: the same message may well crash it again.
    """


class StopTimeout(ActorError):
    """``on_stop`` was cut off because it took longer than ``stop_timeout``. Release less, or allow it more time."""


class UnknownActor(ActorError):
    """No actor of this name is in the tree. Names are fixed when the tree is built: correct the name."""


class RestartIntensityExceeded(ActorError):
    """A supervisor restarted its children more often than its intensity allows and gave up.

    ``__cause__`` is the last crash. A parent supervisor treats it as a crash of this child. Out of ``run_tree``
    it means that restarting does not help: let the process end and have the fault in ``__cause__`` mended.
    """


def split_error(raised: BaseException) -> tuple[Exception | None, BaseException | None]:
    """Part what an actor answers for from what must go on through the program.

    Args:
        raised: an exception, or a group of them as nurseries raise.

    Returns:
        The ordinary exception (a group of one is unwrapped, several stay a group) and the remainder, such as
        ``trio.Cancelled`` or ``KeyboardInterrupt``, which the caller has to raise again. Either may be None.
    """
    if isinstance(raised, BaseExceptionGroup):
        ordinary, remainder = raised.split(Exception)
        return (None if ordinary is None else unwrap(ordinary)), remainder
    if isinstance(raised, Exception):
        return raised, None
    return None, raised


def unwrap(error: Exception) -> Exception:
    """The exception inside nested groups of one; a group of several stays as it is."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
