"""Meta-analysis agrees with metafor and behaves as an estimator must."""

import json
import math
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syndb_common.errors import InvalidRequest
from syndb_common.stats import MetaAnalysis, meta_analysis
from syndb_common.stats.meta import restricted_likelihood

BCG = json.loads((Path(__file__).parent / "metafor_bcg.json").read_text())
METHODS = ["FE", "EE", "DL", "PM", "REML"]
RANDOM = ["DL", "PM", "REML"]
methods = st.sampled_from(METHODS)
studies = st.lists(st.tuples(st.floats(-5, 5), st.floats(0.01, 10)), min_size=2, max_size=12)


def pool(pairs: list[tuple[float, float]], method: str, test: str = "wald") -> MetaAnalysis:
    return meta_analysis([y for y, _ in pairs], [v for _, v in pairs], method=method, test=test)


@pytest.mark.parametrize("row", BCG["results"], ids=lambda row: f"{row['method']}-{row['test']}")
def test_results_are_those_of_metafor(row: dict) -> None:
    result = meta_analysis(BCG["yi"], BCG["vi"], method=row["method"], test=row["test"])
    for name in row.keys() - {"method", "test", "tolerance"}:
        expected = tuple(row[name]) if isinstance(row[name], list) else row[name]
        assert getattr(result, name) == pytest.approx(expected, rel=row["tolerance"]), name


def test_paule_mandel_solves_its_equation_closer_than_metafor() -> None:
    y, v = np.array(BCG["yi"]), np.array(BCG["vi"])
    w = 1 / (v + meta_analysis(y, v, method="PM").tau2)
    assert w @ (y - w @ y / w.sum()) ** 2 == pytest.approx(len(y) - 1, rel=1e-12)


def test_reml_is_a_maximum_of_the_restricted_likelihood() -> None:
    y, v = np.array(BCG["yi"]), np.array(BCG["vi"])

    def log_likelihood(tau2: float) -> float:
        w = 1 / (v + tau2)
        return -0.5 * (np.log(v + tau2).sum() + np.log(w.sum()) + w @ (y - w @ y / w.sum()) ** 2)

    tau2 = meta_analysis(y, v, method="REML").tau2
    assert log_likelihood(tau2) >= max(log_likelihood(tau2 * factor) for factor in (0.5, 0.99, 1.01, 2.0))


@pytest.mark.parametrize("method", METHODS)
def test_a_single_study_is_its_own_result(method: str) -> None:
    result = meta_analysis([0.5], [0.04], method=method)
    assert (result.estimate, result.tau2, result.i2, result.h2, result.q, result.q_p) == (0.5, 0, 0, 1, 0, 1)
    assert result.se == pytest.approx(0.2)
    assert result.weights == (100.0,)
    assert result.pi == result.ci


@pytest.mark.parametrize("method", RANDOM)
def test_two_studies_of_equal_variance_have_a_closed_form(method: str) -> None:
    # all three estimators reduce to (y1 - y2)^2 / 2 - v
    result = meta_analysis([1.0, 3.0], [0.5, 0.5], method=method)
    assert result.estimate == pytest.approx(2.0)
    assert result.tau2 == pytest.approx(1.5, rel=1e-9)
    assert result.weights == pytest.approx((50.0, 50.0))


@pytest.mark.parametrize("method", RANDOM)
def test_equal_variances_give_the_plain_mean_and_the_excess_variance(method: str) -> None:
    y = [1.0, 2.0, 4.0, 9.0]
    result = meta_analysis(y, [0.25] * 4, method=method)
    assert result.estimate == pytest.approx(4.0)
    assert result.tau2 == pytest.approx(np.var(y, ddof=1) - 0.25, rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_equal_effects_have_no_heterogeneity(method: str) -> None:
    result = meta_analysis([0.3, 0.3, 0.3], [0.1, 0.2, 0.4], method=method)
    assert result.tau2 == 0
    assert result.i2 == 0
    assert result.estimate == pytest.approx(0.3)
    assert result.q == pytest.approx(0, abs=1e-25)
    assert result.q_p == pytest.approx(1)
    assert result.pi == pytest.approx(result.ci)


@given(studies)
def test_the_fixed_effect_method_is_the_random_one_at_tau2_zero(pairs: list[tuple[float, float]]) -> None:
    fixed = pool(pairs, "FE")
    w = np.array([1 / v for _, v in pairs])
    assert fixed.tau2 == 0
    assert fixed.estimate == pytest.approx(w @ [y for y, _ in pairs] / w.sum(), rel=1e-9, abs=1e-12)
    assert fixed.se == pytest.approx(w.sum() ** -0.5)
    assert astuple(pool(pairs, "EE"))[:-2] == astuple(fixed)[:-2]


@given(studies, methods, st.randoms(use_true_random=False))
def test_the_order_of_studies_does_not_matter(pairs: list[tuple[float, float]], method: str, random) -> None:
    shuffled = random.sample(pairs, len(pairs))
    assert_equal_up_to(pool(pairs, method), pool(shuffled, method), shift=0.0, factor=1.0)


@given(studies, methods, st.floats(-10, 10))
def test_shifting_all_effects_shifts_the_estimate_only(
    pairs: list[tuple[float, float]], method: str, shift: float
) -> None:
    assert_equal_up_to(pool(pairs, method), pool([(y + shift, v) for y, v in pairs], method), shift=shift, factor=1.0)


@given(studies, methods, st.floats(0.01, 100))
def test_another_unit_scales_everything_with_it(pairs: list[tuple[float, float]], method: str, factor: float) -> None:
    scaled = [(y * factor, v * factor**2) for y, v in pairs]
    assert_equal_up_to(pool(pairs, method), pool(scaled, method), shift=0.0, factor=factor)


def assert_equal_up_to(plain: MetaAnalysis, other: MetaAnalysis, *, shift: float, factor: float) -> None:
    assert other.estimate == pytest.approx(plain.estimate * factor + shift, rel=1e-6, abs=1e-6 * factor)
    assert other.se == pytest.approx(plain.se * factor, rel=1e-6)
    assert other.tau2 == pytest.approx(plain.tau2 * factor**2, rel=1e-6, abs=1e-6 * factor**2)
    assert other.q == pytest.approx(plain.q, rel=1e-6, abs=1e-9)
    assert other.i2 == pytest.approx(plain.i2, rel=1e-4, abs=1e-3)
    assert sum(other.weights) == pytest.approx(100)


@given(studies, st.sampled_from(RANDOM))
def test_intervals_contain_the_estimate_and_the_wider_one_predicts(
    pairs: list[tuple[float, float]], method: str
) -> None:
    result = pool(pairs, method)
    assert result.pi[0] <= result.ci[0] < result.estimate < result.ci[1] <= result.pi[1]
    assert 0 <= result.i2 < 100
    assert result.h2 >= 1
    assert 0 <= result.p <= 1


@pytest.mark.parametrize("method", RANDOM)
def test_one_study_may_dwarf_the_others(method: str) -> None:
    result = meta_analysis([0.0, 1.0, 1.1], [1e-14, 0.5, 0.5], method=method)
    assert 0 <= result.tau2 < 2
    assert math.isfinite(result.estimate)


@pytest.mark.parametrize("method", RANDOM)
def test_heterogeneity_may_dwarf_the_variances(method: str) -> None:
    assert meta_analysis([0.0, 1e6], [1e-12, 2e-12], method=method).tau2 == pytest.approx(5e11, rel=1e-9)


def test_reml_that_does_not_converge_says_so_instead_of_answering() -> None:
    with pytest.raises(InvalidRequest, match="REML did not converge within 1 steps"):
        restricted_likelihood(np.array(BCG["yi"]), np.array(BCG["vi"]), max_iterations=1)


@pytest.mark.parametrize(
    ("yi", "vi", "options", "complaint"),
    [
        ([], [], {}, "at least one study"),
        ([1.0, 2.0], [1.0], {}, "equal length"),
        ([[1.0]], [[1.0]], {}, "two lists"),
        ([1.0, 2.0], [1.0, 0.0], {}, "study 2 cannot be used"),
        ([1.0, 2.0], [-1.0, 1.0], {}, "study 1 cannot be used"),
        ([1.0, math.nan], [1.0, 1.0], {}, "study 2 cannot be used"),
        ([1.0, 1.0], [1.0, math.nan], {}, "study 2 cannot be used"),
        ([1.0, math.inf], [1.0, 1.0], {}, "study 2 cannot be used"),
        ([1.0, 1.0], [1.0, 1e-320], {}, "study 2 cannot be used"),
        (["a"], [1.0], {}, "lists of numbers"),
        ([1.0, None], [1.0, 1.0], {}, "study 2 cannot be used"),
        ([1.0, 2.0], [1.0, 1.0], {"method": "MAGIC"}, "unknown method 'MAGIC'"),
        ([1.0, 2.0], [1.0, 1.0], {"test": "z"}, "unknown test 'z'"),
        ([1.0], [1.0], {"test": "hksj"}, "at least two studies"),
        ([1.0, 2.0], [1.0, 1.0], {"test": "hksj", "method": "FE"}, "random-effects method"),
        ([1.0, 1.0], [1.0, 1.0], {"test": "hksj"}, "all effects are equal"),
    ],
)
def test_input_without_a_meaning_is_refused(yi: list, vi: list, options: dict, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        meta_analysis(yi, vi, **options)
