"""Context variables that travel with messages, from the task of the sender to the handler and its delegated tasks."""

from __future__ import annotations

from contextvars import Context, ContextVar
from typing import Any, TypeAlias

Luggage: TypeAlias = tuple[Any, ...]
"""The values of all carried variables in the order in which they were registered."""

_carried: tuple[ContextVar[Any], ...] = ()


def carry(variable: ContextVar[Any]) -> None:
    """Let the value of ``variable`` travel with every message of this process from now on.

    A handler sees the value that the sender's task had, and so does whatever the handler asks, tells, delegates or
    starts. Register a variable once, where a module defines or imports it; what it means is the program's affair.

    Raises:
        ValueError: it has no default, so that there would be nothing to set where the sender had no value.
    """
    global _carried
    try:
        Context().run(variable.get)
    except LookupError:
        raise ValueError(f"{variable.name} needs a default to be carried with messages") from None
    if variable not in _carried:
        _carried += (variable,)


def pack() -> Luggage:
    """The values in the present task."""
    return tuple([variable.get() for variable in _carried]) if _carried else ()


def unpack(luggage: Luggage) -> None:
    """Set the values in the present task."""
    for variable, value in zip(_carried, luggage, strict=False):
        variable.set(value)
