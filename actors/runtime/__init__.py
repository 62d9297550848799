"""Actors on trio: private state, typed messages, bounded mailboxes, supervision.

Concepts
--------
An **actor** (:class:`Actor`) owns its state and handles one message at a time. Others hold an :class:`ActorRef` and
``tell`` it something or ``ask`` it for an answer within a deadline. Its **mailbox** is bounded: ``tell`` raises
:class:`MailboxFull` with the message in hand, ``ask`` waits for room. A handler that needs long **delegates**: a
concurrent task of the actor gives the answer while the mailbox goes on.

An exception in a handler or a background task is a **crash**: the state is thrown away, since nobody knows what is
left of it. The message that was being handled is lost, its asker told; the messages behind it wait for the next
**incarnation**. A **supervisor** (:class:`Supervisor`) starts its children in order, restarts them by a
:class:`Strategy` with growing delays (:class:`Backoff`), and when that does not help (:class:`Intensity`)
escalates to the supervisor above. **Events** tell what happened.

Example
-------
>>> from dataclasses import dataclass
>>> import trio
>>> from actors.runtime import Actor, ChildSpec, Supervisor, handle, run_tree
>>> @dataclass(frozen=True)
... class Deposit:
...     amount: int
>>> class Account(Actor):
...     expected = (ValueError,)        # an answer, not a crash
...
...     def __init__(self) -> None:
...         self.balance = 0
...
...     @handle
...     async def deposit(self, message: Deposit) -> int:
...         if message.amount <= 0:
...             raise ValueError("deposit more than nothing")
...         self.balance += message.amount
...         return self.balance
>>> async def main() -> None:
...     async with trio.open_nursery() as nursery:
...         tree = await nursery.start(run_tree, Supervisor("bank", [ChildSpec("account", Account)]))
...         account = tree.ref("account")
...         account.tell(Deposit(5))
...         print(await account.ask(Deposit(10), timeout=1))
...         try:
...             await account.ask(Deposit(-1), timeout=1)
...         except ValueError as error:
...             print(error)
...         await tree.stop(grace=1)
>>> trio.run(main)
15
deposit more than nothing

Policy x exit
-------------
What follows when a child ends. *Normal*: it called ``context.stop()``. *Crash*: a handler, background task,
``on_start`` or ``on_stop`` raised, or took longer than its timeout. *Group*: a supervisor with ONE_FOR_ALL or
REST_FOR_ONE stopped it because of a sibling. *Stop*: the tree stopped.

=========== ============== ============== ============== ============
restart     normal         crash          group          stop
=========== ============== ============== ============== ============
PERMANENT   restarted      restarted      restarted      stays down
TRANSIENT   stays down     restarted      restarted      stays down
TEMPORARY   stays down     stays down     stays down     stays down
=========== ============== ============== ============== ============

Restarted by *normal* or *crash* counts towards the intensity. What stays down closes its mailbox: waiting and later
senders get :class:`ActorStoppedError`. It comes back only if its supervisor itself is restarted.

What a message can meet
-----------------------
A message is handled at most once and never redelivered. It is taken back unhandled when its asker's deadline passes
or its asker is cancelled while it waits. A handler that has begun is cut off only by the end of its actor; a
delegated task also by its asker giving up. Context variables registered with :func:`carry` have the sender's value in
the handler, for instance the name of the request it serves. See :mod:`actors.runtime.errors` for what each error
means for a retry, :mod:`actors.runtime.testing` for faults on purpose.
"""

from actors.runtime.actor import Actor, Context, Delegated, handle
from actors.runtime.carried import carry
from actors.runtime.clock import Clock, TrioClock
from actors.runtime.errors import (
    ActorCrashedError,
    ActorError,
    ActorStoppedError,
    AskTimeout,
    MailboxFull,
    RestartIntensityExceeded,
    StopTimeout,
    UnhandledMessage,
    UnknownActor,
)
from actors.runtime.events import (
    ActorCrashed,
    ActorRestarting,
    ActorStarted,
    ActorStopped,
    ErrorUnheard,
    EventStream,
    LifecycleEvent,
    MessagesDropped,
    Subscription,
    SupervisorEscalated,
)
from actors.runtime.policy import Backoff, ChildSpec, Intensity, Restart, Strategy, Supervisor
from actors.runtime.ref import ActorRef, LocalRef
from actors.runtime.tree import Tree, run_tree

__all__ = [
    "Actor",
    "ActorCrashed",
    "ActorCrashedError",
    "ActorError",
    "ActorRef",
    "ActorRestarting",
    "ActorStarted",
    "ActorStopped",
    "ActorStoppedError",
    "AskTimeout",
    "Backoff",
    "ChildSpec",
    "Clock",
    "Context",
    "Delegated",
    "ErrorUnheard",
    "EventStream",
    "Intensity",
    "LifecycleEvent",
    "LocalRef",
    "MailboxFull",
    "MessagesDropped",
    "Restart",
    "RestartIntensityExceeded",
    "StopTimeout",
    "Strategy",
    "Subscription",
    "Supervisor",
    "SupervisorEscalated",
    "Tree",
    "TrioClock",
    "UnhandledMessage",
    "UnknownActor",
    "carry",
    "handle",
    "run_tree",
]
