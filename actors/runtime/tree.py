"""A running tree: where actors are found by name, events are heard, and the whole is stopped."""

from __future__ import annotations

import trio

from actors.runtime.cell import ActorCell
from actors.runtime.clock import Clock, TrioClock
from actors.runtime.errors import UnknownActor
from actors.runtime.events import EventStream
from actors.runtime.policy import Supervisor
from actors.runtime.ref import ActorRef
from actors.runtime.supervisor import Child, Supervision


class Tree:
    """The handle :func:`run_tree` hands out.

    Attributes:
        events: the lifecycle events of all actors and supervisors.
        stopped: set when nothing of the tree runs any more.
    """

    def __init__(self, supervisor: Supervisor, clock: Clock) -> None:
        self.events = EventStream()
        self.stopped = trio.Event()
        self._clock = clock
        self._cells: dict[str, ActorCell] = {}
        self._root = self._build(supervisor)
        self._scope = trio.CancelScope()

    def ref(self, name: str) -> ActorRef:
        """The reference of the actor ``name``, wherever in the tree it is.

        Raises:
            UnknownActor: there is none.
        """
        cell = self._cells.get(name)
        if cell is None:
            raise UnknownActor(f"no actor is named {name!r}; there are {', '.join(sorted(self._cells)) or 'none'}")
        return cell.ref

    async def stop(self, grace: float = 5.0) -> None:
        """Stop all actors, the last one started first, and wait for it.

        Each takes no more messages, answers those it has accepted and then ends. What is not done after ``grace``
        seconds is cancelled; after that, only the ``stop_timeout`` of each remaining actor is waited for.
        """
        self._root.drain()
        with trio.move_on_after(grace):
            await self.stopped.wait()
        self._scope.cancel()
        await self.stopped.wait()

    def _build(self, supervisor: Supervisor) -> Supervision:
        children: list[Child] = []
        for spec in supervisor.children:
            if isinstance(spec, Supervisor):
                children.append(self._build(spec))
            else:
                self._cells[spec.name] = ActorCell(spec, self, self._clock, self.events)
                children.append(self._cells[spec.name])
        return Supervision(supervisor, children, self._clock, self.events)

    async def _run(self, task_status: trio.TaskStatus[Tree]) -> None:
        try:
            with self._scope:
                error = await self._root.run(lambda: task_status.started(self))
                if error is not None:
                    raise error
        finally:
            self._root.close()
            self.events.end()
            self.stopped.set()


async def run_tree(
    supervisor: Supervisor,
    *,
    clock: Clock | None = None,
    task_status: trio.TaskStatus[Tree] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a tree of actors until it is stopped, cancelled, or gives up: ``tree = await nursery.start(run_tree, ...)``.

    Every actor has started when ``nursery.start`` returns. Cancelling the nursery cancels the actors at once, the
    last one started first; their ``on_stop`` still runs, for at most ``stop_timeout`` each.

    Args:
        supervisor: the root.
        clock: measures restart intensity and backoff; trio's own by default.

    Raises:
        RestartIntensityExceeded: the root gave up; ``__cause__`` is the last crash.
    """
    await Tree(supervisor, clock or TrioClock())._run(task_status)
