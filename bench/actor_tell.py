"""Messages told to an actor, against the same messages through a bare trio memory channel.

Both have one sender, one receiver that counts, and room for 64 messages. The sender of the channel waits when it is
full. A mailbox refuses then, so the actor's sender asks for the count after as many messages as fit: the answer says
that there is room again. Rounds of both take turns.
"""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass

import trio

from actors.runtime import Actor, ChildSpec, Supervisor, carry, handle, run_tree
from bench.result import Result, rate
from syndb_common.tracing import current_work

MESSAGES = 50_000
ROUNDS = 9
GOAL = 0.3
ROOM = 64

carry(current_work)  # as in every daemon, where the name of the work travels with each message


@dataclass(frozen=True, slots=True)
class Count:
    """One message."""

    number: int


@dataclass(frozen=True, slots=True)
class HowMany:
    """How many messages came so far?"""


class Counter(Actor):
    """Counts messages."""

    mailbox_size = ROOM + 1

    def __init__(self) -> None:
        self._seen = 0

    @handle
    async def count(self, message: Count) -> None:
        """Count one."""
        self._seen += 1

    @handle
    async def how_many(self, message: HowMany) -> int:
        """Say how many."""
        return self._seen


def run(rounds: int = ROUNDS) -> list[Result]:
    """Messages per second told to an actor, and through a memory channel."""
    told, sent = trio.run(_measure, rounds)
    ours, bare = statistics.median(told), statistics.median(sent)
    return [rate("actor_tell_vs_memory_channel", ours, bare, "messages/s", rounds, goal=GOAL)]


async def _measure(rounds: int) -> tuple[list[float], list[float]]:
    messages = [Count(number) for number in range(MESSAGES)]
    told, sent = [], []
    for _ in range(1 + rounds):
        gc.collect()
        sent.append(MESSAGES / await _send(messages))
        told.append(MESSAGES / await _tell(messages))
    return told[1:], sent[1:]


async def _tell(messages: list[Count]) -> float:
    async with trio.open_nursery() as nursery:
        tree = await nursery.start(run_tree, Supervisor("bench", [ChildSpec("counter", Counter)]))
        counter = tree.ref("counter")
        began = time.perf_counter()
        for first in range(0, MESSAGES, ROOM):
            for message in messages[first : first + ROOM]:
                counter.tell(message)
            seen = await counter.ask(HowMany(), timeout=60)
        seconds = time.perf_counter() - began
        assert seen == MESSAGES
        await tree.stop()
    return seconds


async def _send(messages: list[Count]) -> float:
    sender, receiver = trio.open_memory_channel[Count](ROOM)
    async with trio.open_nursery() as nursery:
        began = time.perf_counter()
        nursery.start_soon(_count, receiver)
        for message in messages:
            await sender.send(message)
        sender.close()
    return time.perf_counter() - began


async def _count(receiver: trio.MemoryReceiveChannel[Count]) -> None:
    seen = 0
    async for message in receiver:
        assert message.number == seen
        seen += 1
