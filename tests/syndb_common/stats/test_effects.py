"""Effect sizes are those of metafor's escalc with its default variances."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syndb_common.errors import InvalidRequest
from syndb_common.stats import effect_size

groups = st.tuples(st.integers(2, 500), st.floats(0.1, 1e3), st.floats(0.01, 1e3))


def test_md_is_the_difference_with_unpooled_variance() -> None:
    assert effect_size("MD", 10, 5.0, 2.0, 20, 3.0, 1.0) == pytest.approx((2.0, 4 / 10 + 1 / 20), rel=1e-15)


def test_rom_is_the_log_ratio_with_its_delta_method_variance() -> None:
    expected = (math.log(5 / 3), 4 / (10 * 25) + 1 / (20 * 9))
    assert effect_size("ROM", 10, 5.0, 2.0, 20, 3.0, 1.0) == pytest.approx(expected, rel=1e-15)
    assert effect_size("ROM", 10, -5.0, 2.0, 20, -3.0, 1.0) == pytest.approx(expected, rel=1e-15)


def test_smd_uses_the_exact_gamma_correction_not_its_approximation() -> None:
    # two degrees of freedom: J = Gamma(1) / (Gamma(1/2) sqrt(1)) = 1 / sqrt(pi); the approximation 1 - 3/7 differs
    yi, vi = effect_size("SMD", 2, 3.0, 1.0, 2, 1.0, 1.0)
    assert yi == pytest.approx(2 / math.sqrt(math.pi), rel=1e-14)
    assert vi == pytest.approx(1 + yi**2 / 8, rel=1e-14)


def test_smd_of_normand_1999_equals_the_value_of_metafor() -> None:
    # first study of dat.normand1999: escalc(measure="SMD") prints -0.3552 and 0.0131
    yi, vi = effect_size("SMD", 155, 55.0, 47.0, 156, 75.0, 64.0)
    assert (round(yi, 4), round(vi, 4)) == (-0.3552, 0.0131)


@given(st.sampled_from(["MD", "SMD", "ROM"]), groups, groups)
def test_swapping_the_groups_turns_the_sign(
    measure: str, a: tuple[int, float, float], b: tuple[int, float, float]
) -> None:
    forward, backward = effect_size(measure, *a, *b), effect_size(measure, *b, *a)
    assert forward[0] == pytest.approx(-backward[0], rel=1e-9, abs=1e-12)
    assert forward[1] == pytest.approx(backward[1], rel=1e-9)


@given(st.sampled_from(["SMD", "ROM"]), groups, groups, st.floats(0.01, 100))
def test_smd_and_rom_do_not_depend_on_the_unit(
    measure: str, a: tuple[int, float, float], b: tuple[int, float, float], unit: float
) -> None:
    scaled = effect_size(measure, a[0], a[1] * unit, a[2] * unit, b[0], b[1] * unit, b[2] * unit)
    assert scaled == pytest.approx(effect_size(measure, *a, *b), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("XYZ", 10, 1.0, 1.0, 10, 1.0, 1.0), "unknown effect size measure 'XYZ'"),
        (("ZCOR", 10, 1.0, 1.0, 10, 1.0, 1.0), "unknown effect size measure 'ZCOR'"),
        (("MD", 1, 1.0, 1.0, 10, 1.0, 1.0), "at least two values"),
        (("MD", 10, math.nan, 1.0, 10, 1.0, 1.0), "finite"),
        (("MD", 10, 1.0, -1.0, 10, 1.0, 1.0), "not negative"),
        (("MD", 10, 1.0, 0.0, 10, 1.0, 0.0), "sampling variance"),
        (("SMD", 10, 1.0, 0.0, 10, 1.0, 0.0), "no group varies"),
        (("ROM", 10, -1.0, 1.0, 10, 1.0, 1.0), "equal sign"),
        (("ROM", 10, 0.0, 1.0, 10, 1.0, 1.0), "not 0"),
    ],
)
def test_what_a_measure_is_not_defined_for_is_refused(arguments: tuple, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        effect_size(*arguments)
