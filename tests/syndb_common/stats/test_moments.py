"""Moments merge to what the union of the values would have given."""

import math
import statistics

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from syndb_common.errors import InvalidRequest
from syndb_common.stats import Moments, merge

values = st.lists(st.floats(-1e6, 1e6), max_size=30)


def close(a: Moments, b: Moments, scale: float) -> bool:
    return (
        a.n == b.n
        and math.isclose(a.mean, b.mean, rel_tol=1e-9, abs_tol=1e-9 * scale)
        and math.isclose(a.m2, b.m2, rel_tol=1e-9, abs_tol=1e-9 * scale**2)
    )


def scale_of(*parts: list[float]) -> float:
    return max((abs(value) for part in parts for value in part), default=0.0) + 1e-100


@given(values, values)
def test_merged_moments_are_those_of_the_union(a: list[float], b: list[float]) -> None:
    assert close(merge(Moments.of(a), Moments.of(b)), Moments.of(a + b), scale_of(a, b))


@given(values, values)
def test_merging_is_commutative(a: list[float], b: list[float]) -> None:
    left, right = Moments.of(a), Moments.of(b)
    assert close(merge(left, right), merge(right, left), scale_of(a, b))


@given(values, values, values)
def test_merging_is_associative(a: list[float], b: list[float], c: list[float]) -> None:
    x, y, z = Moments.of(a), Moments.of(b), Moments.of(c)
    assert close(merge(merge(x, y), z), merge(x, merge(y, z)), scale_of(a, b, c))


@given(values)
def test_no_values_are_the_neutral_element(a: list[float]) -> None:
    nothing, moments = Moments.of([]), Moments.of(a)
    assert merge(nothing, moments) == moments == merge(moments, nothing)


@given(st.lists(st.integers(-10_000, 10_000), min_size=2, max_size=50))
def test_variance_keeps_its_digits_at_a_large_offset(offsets: list[int]) -> None:
    exact = statistics.variance(offsets)
    assume(exact > 1e6)  # the mean itself is rounded to 1e-7 there, which a smaller spread would show
    half = len(offsets) // 2
    shifted = [1e9 + offset for offset in offsets]
    merged = merge(Moments.of(shifted[:half]), Moments.of(shifted[half:]))
    assert merged.variance == pytest.approx(exact, rel=1e-9)
    assert merged.sd == pytest.approx(math.sqrt(exact), rel=1e-9)


@pytest.mark.parametrize("few", [[], [3.0]])
def test_fewer_than_two_values_have_no_variance(few: list[float]) -> None:
    assert Moments.of(few).variance is None
    assert Moments.of(few).sd is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(InvalidRequest, match="finite"):
        Moments.of([1.0, bad])
