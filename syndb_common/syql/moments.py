"""Mean and sum of squared deviations of floats, at the node.

Sums of squares lose all digits at a large offset, and so does Welford's update at 1e9: the mean itself cannot be
written finely enough. So everything is computed on ``x - pivot``, with compensated sums. One pivot serves all
groups: the median of a few values when those stand far from zero compared with their spread, else zero. Where a
group lies so far from it that digits are lost (its mean more than about 300 standard deviations away, or the
pivot so large that the group's sum suffers), its state is marked ``rough``, and the careful form of the statement
takes a second pass, in which each group has its own mean as pivot.

The mean travels as the unevaluated sum of two floats, ``mean + tail`` (Knuth's TwoSum of pivot and mean
deviation): parts at an offset of 1e9 keep their digits, and the pivot, a value of some row, stays at the node.
"""

from __future__ import annotations

from sqlglot import exp

from syndb_common.syql.partials import State
from syndb_common.syql.scalars import call, column

SAMPLE = 64
"""Values the common pivot is chosen from; few, so that a selective WHERE is not scanned twice to find them."""
_FAR = 10
"""The median becomes the pivot when it is this many times the sample's range away from zero."""
_ROUGH_SQUARED = 1e5
"""Squared distance of mean and pivot, in variances, beyond which a state is rough: about 316 standard deviations.
Rounding then costs 1e5 * 1e-16 of the variance, well inside 1e-9."""
_ROUGH_SUM = 1e3
"""Size of the pivot, in means, beyond which a sum is rough: rounding then costs 1e3 * 1e-16 of it."""


def sample_pivot(inner: exp.Select, state: State, argument: exp.Expr, source: exp.Expr, where: exp.Expr) -> exp.Select:
    """Add the pivot common to all groups, a scalar ``__p{i}``."""
    sample = exp.select(_as(argument, "__x")).from_(source).where(where).limit(SAMPLE)
    median = "quantileExactLow(0.5)(__x)"
    pivot = _sql(f"if(abs({median}) > {_FAR} * (max(__x) - min(__x)), {median}, 0.)")
    return _scalar(inner, state, exp.select(pivot).from_(sample.subquery("__sample")))


def whole_pivot(inner: exp.Select, state: State, argument: exp.Expr, source: exp.Expr, where: exp.Expr) -> exp.Select:
    """Add the mean of all rows as pivot: the careful form of a plan without keys."""
    rows = exp.select(_as(argument, "__x")).from_(source).where(where)
    return _scalar(inner, state, exp.select(_own_mean("__x")).from_(rows.subquery("__sample")))


def grouped_pivots(
    inner: exp.Select,
    carriers: list[tuple[str, exp.Expr]],
    states: list[tuple[State, exp.Expr]],
    source: exp.Expr,
    where: exp.Expr,
) -> exp.Select:
    """Join every row with the pivots of its group, columns ``__p{i}``: the careful form of a plan with keys."""
    keys = [(f"__j{i}", sql) for i, (_, sql) in enumerate(carriers)]
    values = [(f"__x{state.index}", sql) for state, sql in states]
    rows = exp.select(*(_as(sql, name) for name, sql in (*keys, *values))).from_(source).where(where)
    means = [_as(_own_mean(f"__x{state.index}"), f"__p{state.index}") for state, _ in states]
    pivots = exp.select(*(column(name) for name, _ in keys), *means).from_(rows.subquery("__sample"))
    pivots = pivots.group_by(*(column(name) for name, _ in keys))
    same = [
        exp.NullSafeEQ(this=exp.Paren(this=sql.copy()), expression=column(name))
        for (name, _), (_, sql) in zip(keys, carriers, strict=True)
    ]
    inner.set("joins", [exp.Join(this=pivots.subquery("__pivots"), side="LEFT", kind="ANY", on=exp.and_(*same))])
    return inner


def moment_sums(state: State, argument: exp.Expr) -> list[exp.Expr]:
    """Over the rows of a group: the pivot, the sum of deviations from it, the sum of their squares."""
    # Columns without NULLs aggregate faster: a missing value deviates by zero, and is not counted elsewhere.
    pivot = call("assumeNotNull", column(f"__p{state.index}"))
    deviation = call("minus", call("ifNull", argument, pivot), pivot.copy())
    square = call("multiply", deviation, deviation.copy())
    return [
        _as(call("any", pivot.copy()), f"__r{state.index}_pivot"),
        _as(call("sumKahan", deviation.copy()), f"__r{state.index}_sum"),
        _as(call("sumKahan", square), f"__r{state.index}_squares"),
    ]


def moment_columns(state: State, count: str, *, careful: bool) -> list[exp.Expr]:
    """The state's four columns from the sums of a group; all zero for a group without values."""
    raw, name = f"__r{state.index}", state.name
    n, pivot = f"toFloat64({count})", f"ifNull({raw}_pivot, 0.)"
    shift = f"({raw}_sum / {n})"
    mean = f"({pivot} + {shift})"
    back = f"({mean} - {pivot})"
    tail = f"(({pivot} - ({mean} - {back})) + ({shift} - {back}))"
    spread = f"({raw}_squares - {raw}_sum * {shift})"
    m2 = f"if({spread} < 0, 0., {spread})"
    if careful:
        rough = "0"
    else:
        far = f"{count} > 1 and {shift} * {shift} > {_ROUGH_SQUARED!r} * ({m2}) / {n}"
        rough = f"isFinite({raw}_squares) and (({far}) or abs({pivot}) > {_ROUGH_SUM!r} * abs({mean}))"
    guard = f"if({count} = 0, 0., %s)"
    return [
        _as(_sql(f"toFloat64(ifNull({guard % mean}, 0.))"), f"{name}_mean"),
        _as(_sql(f"toFloat64(ifNull(if(isFinite({mean}), {guard % tail}, 0.), 0.))"), f"{name}_tail"),
        _as(
            _sql(f"toFloat64(ifNull(if({count} = 1 and isFinite({raw}_squares), 0., {guard % m2}), 0.))"), f"{name}_m2"
        ),
        _as(_sql(f"toUInt8(ifNull({count} > 0 and ({rough}), 0))"), f"{name}_rough"),
    ]


def _own_mean(name: str) -> exp.Expr:
    """Mean of finite size, exact when all values are equal, so that their variance is exactly zero."""
    mean = f"sumKahan({name}) / count({name})"
    return _sql(f"ifNull(if(min({name}) = max({name}), min({name}), if(isFinite({mean}), {mean}, 0.)), 0.)")


def _scalar(inner: exp.Select, state: State, value: exp.Select) -> exp.Select:
    return inner.with_(f"__p{state.index}", as_=value, scalar=True, copy=False)


def _sql(fixed: str) -> exp.Expr:
    """SQL written here, of our own names only, kept as it is: parsing it would cost more than the rest of compiling."""
    return exp.var(fixed)


def _as(sql: exp.Expr, name: str) -> exp.Expr:
    return exp.alias_(sql, name, quoted=True)
