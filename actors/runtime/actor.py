"""What a user writes: an :class:`Actor` with a handler per type of message, and the :class:`Context` it lives in."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, TypeVar, cast

import trio

from actors.runtime.clock import Clock
from actors.runtime.errors import UnhandledMessage
from actors.runtime.events import EventStream
from actors.runtime.mailbox import Mailbox
from actors.runtime.ref import ActorRef, LocalRef

T = TypeVar("T")
Handler = TypeVar("Handler", bound=Callable[..., Awaitable[Any]])
_MARK = "_handles_messages"

NO_ANSWER: Final = object()
"""Returned by :meth:`Actor.receive`, it leaves the asker waiting for its deadline, as a lost answer would."""


def handle(method: Handler) -> Handler:
    """Mark ``async def method(self, message: M)`` as the handler of messages of type ``M`` and its subclasses.

    ``M`` may be a union. It is resolved when the class is created, so it must be importable at run time. An
    override in a subclass handles the same messages and needs no mark.
    """
    setattr(method, _MARK, True)
    return method


class Directory(Protocol):
    """Finds the actors of a tree by name."""

    def ref(self, name: str) -> ActorRef:
        """The reference of the actor ``name``. Raises UnknownActor."""
        ...


@dataclass(frozen=True, slots=True)
class Delegated:
    """What a handler returns so that ``task`` gives the answer; see :meth:`Context.delegate`."""

    task: Callable[..., Awaitable[Any]]
    args: tuple[Any, ...]


class Context:
    """The surroundings of one incarnation of an actor, its ``self.context`` from ``on_start`` to ``on_stop``.

    Attributes:
        name: the actor's name.
        ref: the actor's own reference, to hand out.
        sender: who sent the message being handled, None for this process. It changes with the next message:
            pass it on to a delegated task as an argument.
        clock: the tree's clock.
        events: the tree's event stream.
    """

    def __init__(
        self, mailbox: Mailbox, ref: LocalRef, directory: Directory, clock: Clock, events: EventStream
    ) -> None:
        self.name = ref.name
        self.ref = ref
        self.sender: Any = None
        self.clock = clock
        self.events = events
        self._mailbox = mailbox
        self._directory = directory
        self._nursery: trio.Nursery | None = None

    def start_soon(self, task: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run ``task(*args)`` beside the handlers until the actor ends. If it raises, the actor crashes."""
        if self._nursery is None:
            raise RuntimeError("background tasks start in on_start or later, not in __init__")
        self._nursery.start_soon(task, *args)

    def delegate(self, task: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Let ``task(*args)`` give the answer while the mailbox goes on: ``return self.context.delegate(...)``.

        What the task returns or raises goes to the asker; an error does not crash the actor. It is cancelled
        when its asker gives up, and when the actor ends. Beyond ``max_delegates`` at a time the asker gets
        MailboxFull. State it shares with handlers may have changed whenever it has awaited something.

        It is typed as the answer, so that the annotation of the handler says what its asker gets.
        """
        return cast("T", Delegated(task, args))

    def find(self, name: str) -> ActorRef:
        """The reference of another actor of the tree; valid before that actor has started. Raises UnknownActor."""
        return self._directory.ref(name)

    def stop(self) -> None:
        """End this actor normally after the current message. Its restart policy says whether it comes back."""
        self._mailbox.interrupt()


class Actor:
    """Private state and one message at a time. Subclass it, with a :func:`handle` method per type of message.

    A handler's return value is the answer. If a handler raises, the actor crashes: its state is discarded and its
    supervisor decides what follows. A fresh instance is made for each incarnation, so ``__init__`` is the reset.
    """

    mailbox_size: ClassVar[int] = 64
    """Messages that may wait. 64 absorbs a burst; a sender that outruns it should be told so."""
    max_delegates: ClassVar[int] = 64
    """Delegated tasks at a time."""
    expected: ClassVar[tuple[type[Exception], ...]] = ()
    """Exceptions that are an answer to the asker when a handler raises them, and no crash."""
    start_timeout: ClassVar[float] = 30.0
    """Seconds for ``on_start``; a start that hangs is a crash."""
    stop_timeout: ClassVar[float] = 2.0
    """Seconds for ``on_stop``, which nothing else interrupts: a cancelled tree waits this long for each actor."""

    context: Context
    _handlers: ClassVar[dict[type, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._handlers = _collect_handlers(cls)

    async def on_start(self) -> None:
        """Acquire what the actor needs; no message is handled before it returns. Raising here is a crash."""

    async def on_stop(self) -> None:
        """Release it, after a crash too, once handlers and background tasks have ended.

        Called once for each ``on_start`` that returned, also under cancellation, for at most ``stop_timeout``.
        """

    async def receive(self, message: Any) -> Any:
        """Give ``message`` to its handler and return the answer. Override it to wrap every handler."""
        for kind in type(message).__mro__:
            name = self._handlers.get(kind)
            if name is not None:
                return await getattr(self, name)(message)
        raise UnhandledMessage(f"{self.context.name!r} does not handle {type(message).__name__}", message=message)


def _collect_handlers(cls: type[Actor]) -> dict[type, str]:
    handlers: dict[type, str] = {}
    for base in reversed(cls.__mro__):
        own: dict[type, str] = {}
        for name, method in vars(base).items():
            if not getattr(method, _MARK, False):
                continue
            for kind in _message_types(base, method):
                if kind in own:
                    raise TypeError(f"{base.__qualname__} handles {kind.__name__} in {own[kind]} and in {name}")
                own[kind] = name
        handlers.update(own)
    return handlers


def _message_types(owner: type, method: Callable[..., Any]) -> tuple[type, ...]:
    where = f"{owner.__qualname__}.{method.__name__}"
    parameters = list(inspect.signature(method).parameters)
    if not inspect.iscoroutinefunction(method) or len(parameters) != 2:
        raise TypeError(f"{where} must be `async def {method.__name__}(self, message: SomeType)`")
    try:
        annotation = typing.get_type_hints(method).get(parameters[1])
    except NameError as error:
        raise TypeError(f"{where}: {error}; import message and reply types at run time, at module level") from error
    members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    if not all(isinstance(member, type) for member in members):
        raise TypeError(f"{where}: annotate `{parameters[1]}` with the class of the message, or a union of classes")
    return members


def _is_union(annotation: object) -> bool:
    return isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
