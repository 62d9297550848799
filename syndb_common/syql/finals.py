"""The hub's arithmetic: states of all nodes -> the value of every aggregate.

COUNT of nothing is 0, every other aggregate of nothing is NULL, and so is a sample variance of one value. Variances
of floats merge by Chan's rule for many parts at once,

    M2 = sum(m2_i) + sum(n_i * (d_i - d)^2),    d_i = (mean_i - mean_1) + tail_i,    d = sum(n_i * d_i) / n,

whose differences of means keep all digits at any offset.
"""

from __future__ import annotations

from sqlglot import exp

from syndb_common.syql.kinds import Kind, Shape
from syndb_common.syql.partials import VARIANCES, Merge, State, States, integer_type
from syndb_common.syql.plan import Aggregate, Expression, Function, fingerprint


def merged_columns(states: States) -> list[exp.Expr]:
    """Aggregates over the parts of a group, columns ``__t{i}``; moments become arrays with one entry per part."""
    return [_as(sql, name) for state in states for name, sql in _merged(state, states)]


def final_columns(aggregates: tuple[Aggregate, ...], states: States, kinds: dict[str, Kind]) -> list[exp.Expr]:
    """Values of the aggregates, columns ``__a{i}``, from the merged states."""
    return [_as(_final(a, states, kinds[fingerprint(a)]), f"__a{i}") for i, a in enumerate(aggregates)]


def _merged(state: State, states: States) -> list[tuple[str, str]]:
    name, merged = state.name, f"__t{state.index}"
    match state.merge:
        case Merge.ROWS | Merge.COUNT:
            return [(merged, f"ifNull(sum({name}), 0)")]
        case Merge.MIN | Merge.MAX:
            return [(merged, f"{state.merge}OrNull({name})")]
        case Merge.MOMENTS:
            return _gathered(state, _of(states, Merge.COUNT, state.argument).name)
        case _ if state.kind.shape is Shape.INTEGER:
            return [(merged, f"ifNull(sum(toInt256({name})), toInt256(0))")]
        case _:
            return [(merged, f"ifNull(sumKahan({name}), 0.)")]


def _gathered(state: State, count: str) -> list[tuple[str, str]]:
    parts = {"n": f"toFloat64({count})", **{part: f"{state.name}_{part}" for part in ("mean", "tail", "m2")}}
    return [
        (f"__t{state.index}_{part}", f"groupArrayIf(assumeNotNull({sql}), ifNull({count}, 0) > 0)")
        for part, sql in parts.items()
    ]


def _final(aggregate: Aggregate, states: States, kind: Kind) -> str:
    function, argument = aggregate.function, aggregate.argument
    if function is Function.COUNT_ALL:
        return f"toUInt64(__t{_of(states, Merge.ROWS, None).index})"
    if function in (Function.MIN, Function.MAX):
        return f"__t{_of(states, Merge(function.value), argument).index}"
    count = f"__t{_of(states, Merge.COUNT, argument).index}"
    if function is Function.COUNT:
        return f"toUInt64({count})"
    if function in VARIANCES:
        return _variance(function, argument, states, count)
    moments = states.of(Merge.MOMENTS, argument)
    total = f"__t{_of(states, Merge.SUM, argument).index}" if moments is None else _total(moments)
    if function is Function.AVG:
        return f"if({count} = 0, NULL, toFloat64({total}) / toFloat64({count}))"
    if kind.shape is Shape.INTEGER:
        total = f"accurateCast({total}, '{integer_type(kind)}')"
    return f"if({count} = 0, NULL, {total})"


def _variance(function: Function, argument: Expression | None, states: States, count: str) -> str:
    sample = function in (Function.VAR_SAMP, Function.STDDEV_SAMP)
    n = f"toFloat64({count})"
    degrees = f"({n} - 1)" if sample else n
    squares = states.of(Merge.SQUARES, argument)
    if squares is not None:
        total = f"__t{_of(states, Merge.SUM, argument).index}"
        spread = f"toFloat64(toInt256({count}) * __t{squares.index} - {total} * {total}) / {n}"
    else:
        spread = _chan(_of(states, Merge.MOMENTS, argument))
    variance = f"(({spread}) / {degrees})"
    value = f"sqrt({variance})" if function in (Function.STDDEV_POP, Function.STDDEV_SAMP) else variance
    return f"if({count} < {2 if sample else 1}, NULL, {value})"


def _chan(state: State) -> str:
    n, mean, tail, m2 = (f"__t{state.index}_{part}" for part in ("n", "mean", "tail", "m2"))
    shifts = f"arrayMap((h, t) -> (h - {mean}[1]) + t, {mean}, {tail})"
    centre = f"(arraySum(arrayMap((a, b) -> a * b, {n}, {shifts})) / arraySum({n}))"
    between = f"arraySum(arrayMap((a, b) -> a * (b - {centre}) * (b - {centre}), {n}, {shifts}))"
    return f"arraySum({m2}) + {between}"


def _total(state: State) -> str:
    """Sum of the values from their counts and means."""
    n, mean, tail = (f"__t{state.index}_{part}" for part in ("n", "mean", "tail"))
    return f"arrayReduce('sumKahan', arrayMap((a, h, t) -> a * h + a * t, {n}, {mean}, {tail}))"


def _of(states: States, merge: Merge, argument: Expression | None) -> State:
    state = states.of(merge, argument)
    assert state is not None
    return state


def _as(fixed: str, name: str) -> exp.Expr:
    """SQL written here, of our own names only, under a name; not parsed, which would cost more than all the rest."""
    return exp.alias_(exp.var(fixed), name, quoted=True)
