"""Counts what happens to a daemon's parts, for its metrics."""

from __future__ import annotations

from actors.runtime import Tree
from actors.runtime.events import ActorCrashed, ActorRestarting, ActorStarted, ErrorUnheard, SupervisorEscalated
from syndb_common.metrics import ACTOR_EVENTS

_NAMES = {
    ActorStarted: "started",
    ActorCrashed: "crashed",
    ActorRestarting: "restarting",
    SupervisorEscalated: "gave_up",
    ErrorUnheard: "error_unheard",
}


async def count_events(tree: Tree) -> None:
    """Count the events of a tree until it has ended."""
    with tree.events.subscribe() as events:
        async for event in events:
            name = _NAMES.get(type(event))
            if name is not None:
                ACTOR_EVENTS.labels(event.name, name).inc()
