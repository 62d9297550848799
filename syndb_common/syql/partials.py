"""What a node sends back for an aggregating plan: group keys and mergeable states, as plain Arrow columns.

A state belongs to an argument, not to an aggregate: ``AVG(x)`` and ``STDDEV(x)`` share theirs.

=========  ===================================================  =========================================
state      columns of state *i*                                 merges by
=========  ===================================================  =========================================
ROWS       ``__s{i}`` rows                                      addition
COUNT      ``__s{i}`` values that are not NULL                  addition
SUM        ``__s{i}`` decimal256 for integers, else float64     addition, exact for integers
MIN, MAX   ``__s{i}`` the value                                 minimum, maximum
SQUARES    ``__s{i}`` decimal256, the exact sum of squares      addition, exact
MOMENTS    ``__s{i}_mean``, ``_tail``, ``_m2``, ``_rough``      Chan's rule on means written as mean + tail
=========  ===================================================  =========================================

Variances of integers come from exact sums and sums of squares. Those of floats come from moments about a pivot:
``mean + tail`` is the mean to twice the precision of a float, so that parts at an offset of 1e9 merge without
losing digits, and the pivot itself, a value of some row, never leaves the node. ``rough`` is 1 where the pivot was
too far from a group; then the hub asks the node again with ``careful`` set (:func:`needs_care`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc

from syndb_common.errors import DataError
from syndb_common.syql.kinds import ROWS, Kind, Shape
from syndb_common.syql.plan import Expression, Function, Plan, fingerprint

VARIANCES = (Function.VAR_POP, Function.VAR_SAMP, Function.STDDEV_POP, Function.STDDEV_SAMP)
EXACT_SQUARES = 2**64
"""Integers up to here have an exact sum of squares in 76 decimal digits, whatever the number of rows."""
_EXACT = pa.decimal256(76, 0)


class Merge(StrEnum):
    """Kinds of states."""

    ROWS = "rows"
    COUNT = "count"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    SQUARES = "squares"
    MOMENTS = "moments"


@dataclass(frozen=True, slots=True)
class State:
    """One state: how it merges, and of what."""

    index: int
    merge: Merge
    argument: Expression | None
    kind: Kind

    @property
    def name(self) -> str:
        """Its column, or the beginning of its columns' names."""
        return f"__s{self.index}"

    def fields(self) -> Iterator[pa.Field]:
        """Its columns in a node's part."""
        if self.merge is Merge.MOMENTS:
            yield from (pa.field(f"{self.name}_{part}", pa.float64()) for part in ("mean", "tail", "m2"))
            yield pa.field(f"{self.name}_rough", pa.uint8())
        elif self.merge in (Merge.ROWS, Merge.COUNT):
            yield pa.field(self.name, pa.uint64())
        elif self.merge in (Merge.MIN, Merge.MAX):
            yield pa.field(self.name, arrow_type(self.kind))
        else:
            yield pa.field(self.name, _EXACT if self.kind.shape is Shape.INTEGER else pa.float64())


class States:
    """The states a plan needs, each once. ``kinds`` gives the kind of every aggregate's argument by fingerprint."""

    def __init__(self, plan: Plan, kinds: dict[str, Kind]) -> None:
        self._found: dict[tuple[Merge, str], State] = {}
        self._kinds = kinds
        ordered = sorted(plan.aggregates, key=lambda aggregate: aggregate.function not in VARIANCES)
        for aggregate in ordered:
            for merge in self._merges(aggregate.function, aggregate.argument):
                self._add(merge, aggregate.argument)

    def __iter__(self) -> Iterator[State]:
        return iter(self._found.values())

    def of(self, merge: Merge, argument: Expression | None) -> State | None:
        """The state of that kind for an argument, or None."""
        return self._found.get((merge, "" if argument is None else fingerprint(argument)))

    def _merges(self, function: Function, argument: Expression | None) -> tuple[Merge, ...]:
        if argument is None:
            return (Merge.ROWS,)
        exact = exact_squares(self._kinds[fingerprint(argument)])
        if function is Function.COUNT:
            return (Merge.COUNT,)
        if function in (Function.MIN, Function.MAX):
            return (Merge(function.value),)
        if function in VARIANCES:
            return (Merge.COUNT, Merge.SUM, Merge.SQUARES) if exact else (Merge.COUNT, Merge.MOMENTS)
        if self.of(Merge.MOMENTS, argument) is not None and self._kinds[fingerprint(argument)].shape is Shape.FLOAT:
            return ()
        return (Merge.COUNT, Merge.SUM)

    def _add(self, merge: Merge, argument: Expression | None) -> None:
        key = (merge, "" if argument is None else fingerprint(argument))
        kind = ROWS if argument is None else self._kinds[fingerprint(argument)]
        self._found.setdefault(key, State(len(self._found), merge, argument, kind))


def exact_squares(kind: Kind) -> bool:
    """Whether sums of squares of such values are computed exactly."""
    return kind.shape is Shape.INTEGER and kind.reach <= EXACT_SQUARES


def integer_type(kind: Kind) -> str:
    """ClickHouse's smallest integer type holding every value; Int64 for what may be larger, with a check."""
    for bits in (8, 16, 32, 64):
        if kind.low >= 0 and kind.high < 2**bits:
            return f"UInt{bits}"
        if -(2 ** (bits - 1)) <= kind.low and kind.high < 2 ** (bits - 1):
            return f"Int{bits}"
    return "Int64"


def arrow_type(kind: Kind) -> pa.DataType:
    """Type of such values in a node's part and in a result."""
    match kind.shape:
        case Shape.INTEGER:
            return getattr(pa, integer_type(kind).lower())()
        case Shape.FLOAT:
            return pa.float64()
        case Shape.BOOLEAN:
            return pa.bool_()
        case _:
            return pa.string()


def conform(expected: pa.Schema, part: pa.Table) -> pa.Table:
    """A peer's part, accepted only when its columns are those asked for and its buffers are sound.

    Raises:
        DataError: names or types differ, or the data are malformed.
    """
    if part.schema.names != expected.names or part.schema.types != expected.types:
        raise DataError("a part of the answer has other columns than were asked for", columns=part.schema.names[:50])
    try:
        part.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError("a part of the answer is malformed") from error
    return part.cast(expected)


def needs_care(part: pa.Table) -> bool:
    """Whether a variance in this part lost digits, so that the part must be computed again with ``careful``."""
    rough = [part.column(name) for name in part.column_names if name.startswith("__s") and name.endswith("_rough")]
    return any(bool(pc.any(pc.not_equal(column, 0)).as_py()) for column in rough)
