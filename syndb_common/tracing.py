"""The work a message belongs to, carried across tasks, actors and daemons, so that logs of all places fit together.

An HTTP request, a job or a command starts some work and names it; whatever is asked because of it carries the name:
``actors.runtime`` with every message (:func:`actors.runtime.carry`), ``actors.remote`` in the request's envelope.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work.

    Attributes:
        request_id: names it in logs and to its user; ``X-Request-ID`` over HTTP.
        traceparent: W3C trace context of the span that is under way, or empty when nobody records traces.
    """

    request_id: str
    traceparent: str = ""


current_work: ContextVar[Work | None] = ContextVar("syndb_work", default=None)
"""The work this task does; None for what a daemon does by itself."""
