"""Meta-analysis: one pooled effect from many studies, and how much the studies differ beyond chance.

The model is yi = mu + ui + ei with ui ~ N(0, tau2) and ei ~ N(0, vi). Methods differ in how they estimate tau2, the
variance between studies; given it, every study weighs 1 / (vi + tau2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, ndtr, ndtri, stdtr, stdtrit

from syndb_common.errors import InvalidRequest

Vector = npt.NDArray[np.float64]

MAX_ITERATIONS = 200
"""Steps an iterative estimator may take; REML needs about five, PM one more per doubling of tau2 over vi."""

RANGE = 1e50
"""Largest magnitude of effects, variances and their inverses, so that no power of them overflows."""

LEVEL = 0.95
"""Coverage of confidence and prediction intervals."""


@dataclass(frozen=True, slots=True)
class MetaAnalysis:
    """Result of :func:`meta_analysis`.

    Attributes:
        estimate: pooled effect, in the unit of yi.
        se: its standard error.
        ci: 95 % confidence interval of the pooled effect.
        pi: 95 % prediction interval of the effect in a further study; equals ``ci`` when tau2 is 0.
        tau2: variance between studies.
        i2: percent of the total variance that lies between studies.
        h2: total variance over sampling variance.
        q: Cochran's Q, the weighted squared deviations from the fixed-effect mean.
        q_p: p value of Q under homogeneity, chi-squared with k - 1 degrees of freedom.
        statistic: estimate / se, standard normal (wald) or t with k - 1 degrees of freedom (hksj).
        p: two-sided p value of the statistic.
        weights: percent each study contributes, in the order of the input.
        k: number of studies.
        method, test: as requested.
    """

    estimate: float
    se: float
    ci: tuple[float, float]
    pi: tuple[float, float]
    tau2: float
    i2: float
    h2: float
    q: float
    q_p: float
    statistic: float
    p: float
    weights: tuple[float, ...]
    k: int
    method: str
    test: str


def meta_analysis(
    yi: Sequence[float], vi: Sequence[float], *, method: str = "REML", test: str = "wald"
) -> MetaAnalysis:
    """Pool the effects ``yi`` with sampling variances ``vi``, one of each per study.

    Heterogeneity is that of Higgins & Thompson (2002), generalised to any estimator as in metafor: with s2 the
    typical sampling variance (k - 1) / (sum w - sum w^2 / sum w), w = 1 / vi, I2 = tau2 / (tau2 + s2) and
    H2 = 1 + tau2 / s2. Under FE, I2 = (Q - (k - 1)) / Q, at least 0, and H2 = Q / (k - 1).

    Args:
        method: FE (or EE), DL, PM or REML; see the function of each in this module.
        test: ``wald``, normal quantiles; ``hksj``, the variance and t quantiles of Hartung & Knapp (2001) and
            Sidik & Jonkman (2002), without a lower bound on the variance. Needs two studies and a random effect.

    Raises:
        InvalidRequest: yi and vi differ in length or are empty, a value is not finite, a variance is not positive,
            method or test is unknown, they do not fit each other, or REML did not converge.
    """
    y, v = _checked(yi, vi)
    k = len(y)
    if method not in ESTIMATORS:
        raise InvalidRequest(f"unknown method {method!r}", hint=f"Use one of {', '.join(ESTIMATORS)}.")
    if test not in ("wald", "hksj"):
        raise InvalidRequest(f"unknown test {test!r}", hint="Use wald or hksj.")
    if test == "hksj" and (k < 2 or method in FIXED):
        raise InvalidRequest(
            "test hksj needs at least two studies and a random-effects method",
            hint=f"Use test wald, or one of {', '.join(name for name in ESTIMATORS if name not in FIXED)}.",
        )
    tau2 = ESTIMATORS[method](y, v) if k > 1 else 0.0
    w = 1 / (v + tau2)
    estimate = float(w @ y / w.sum())
    q = _q(y, v, 0.0)
    i2, h2 = _heterogeneity(v, tau2, q, fixed=method in FIXED)
    if test == "hksj":
        se = _hksj_se(y, w, estimate)
        quantile = float(stdtrit(k - 1, (1 + LEVEL) / 2))
        p = float(2 * stdtr(k - 1, -abs(estimate / se)))
    else:
        se = 1 / math.sqrt(w.sum())
        quantile = float(ndtri((1 + LEVEL) / 2))
        p = float(2 * ndtr(-abs(estimate / se)))
    return MetaAnalysis(
        estimate=estimate,
        se=se,
        ci=_interval(estimate, quantile * se),
        pi=_interval(estimate, quantile * math.sqrt(tau2 + se**2)),
        tau2=tau2,
        i2=i2,
        h2=h2,
        q=q,
        q_p=float(chdtrc(k - 1, q)) if k > 1 else 1.0,
        statistic=estimate / se,
        p=p,
        weights=tuple((100 * w / w.sum()).tolist()),
        k=k,
        method=method,
        test=test,
    )


def fixed_effect(y: Vector, v: Vector) -> float:
    """FE, EE: all studies share one effect, tau2 = 0; the mean is the inverse-variance mean."""
    return 0.0


def dersimonian_laird(y: Vector, v: Vector) -> float:
    """DL: the moment estimator of DerSimonian & Laird (1986), doi:10.1016/0197-2456(86)90046-2.

    tau2 = (Q - (k - 1)) / (sum w - sum w^2 / sum w) with w = 1 / vi, at least 0.
    """
    w = 1 / v
    return float(max(0.0, (_q(y, v, 0.0) - (len(y) - 1)) / _trace(w)))


def paule_mandel(y: Vector, v: Vector) -> float:
    """PM: the tau2 whose generalised Q equals k - 1, Paule & Mandel (1982), doi:10.6028/jres.087.022; at least 0.

    Generalised Q is convex and falls with tau2, so that Newton's steps (DerSimonian & Kacker 2007,
    doi:10.1016/j.cct.2006.04.004) rise from 0 to the root and never pass it.
    """
    tau2 = 0.0
    for _ in range(MAX_ITERATIONS):
        w = 1 / (v + tau2)
        excess = _q(y, v, tau2) - (len(y) - 1)
        if excess <= 0:
            return tau2
        step = excess / float(w**2 @ (y - w @ y / w.sum()) ** 2)
        tau2 += step
        if step <= 1e-14 * tau2:
            return tau2
    raise _not_converged("PM", MAX_ITERATIONS)


def restricted_likelihood(y: Vector, v: Vector, max_iterations: int = MAX_ITERATIONS) -> float:
    """REML: the tau2 of the largest restricted likelihood, Viechtbauer (2005), doi:10.3102/10769986030003261.

    With P = W - W 1 1' W / sum w, the score is (y'PPy - tr P) / 2. Steps are Newton's, with 2 y'PPPy - tr PP, where
    the likelihood is concave, else those of Fisher scoring, with tr PP, which alone crawls where the likelihood is
    flat. They start at Hedges' moment estimate and are halved while they would lower the likelihood, so that they
    end in a maximum; tau2 stays at least 0.
    """
    tau2 = max(0.0, float(y.var(ddof=1) - v.mean()))
    likelihood = _restricted_log_likelihood(y, v, tau2)
    typical = (len(y) - 1) / _trace(1 / v)
    for _ in range(max_iterations):
        w = 1 / (v + tau2)
        py = w * (y - w @ y / w.sum())
        expected = _trace_of_square(w)
        observed = 2 * float(w @ (py - w @ py / w.sum()) ** 2) - expected
        step = max(float(py @ py - _trace(w)) / (observed if observed > 0 else expected), -tau2)
        while abs(step) > 1e-11 * (tau2 + typical):
            candidate = _restricted_log_likelihood(y, v, tau2 + step)
            if candidate >= likelihood - 1e-13 * (1 + abs(likelihood)):  # rounding must not look like a descent
                break
            step /= 2
        else:
            return tau2 + step
        tau2, likelihood = tau2 + step, candidate
    raise _not_converged("REML", max_iterations)


FIXED = ("FE", "EE")
"""Methods without a random effect: one common effect under two of its names."""

ESTIMATORS: dict[str, Callable[[Vector, Vector], float]] = {
    "FE": fixed_effect,
    "EE": fixed_effect,
    "DL": dersimonian_laird,
    "PM": paule_mandel,
    "REML": restricted_likelihood,
}
"""Estimator of tau2 by the name of its method, of at least two studies."""


def _checked(yi: Sequence[float], vi: Sequence[float]) -> tuple[Vector, Vector]:
    try:
        y, v = np.asarray(yi, dtype=np.float64), np.asarray(vi, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidRequest("yi and vi must be lists of numbers") from error
    if y.ndim != 1 or y.shape != v.shape or not len(y):
        raise InvalidRequest(
            "yi and vi must be two lists of equal length with at least one study",
            hint=f"yi has the shape {y.shape}, vi {v.shape}.",
        )
    usable = (np.abs(y) <= RANGE) & (v >= 1 / RANGE) & (v <= RANGE)  # comparisons with NaN are false
    if not usable.all():
        first = int(np.argmin(usable))
        raise InvalidRequest(
            f"study {first + 1} cannot be used: yi = {y[first]}, vi = {v[first]}",
            hint="Effects must be finite and sampling variances positive; leave such studies out.",
            study=first,
        )
    return y, v


def _q(y: Vector, v: Vector, tau2: float) -> float:
    w = 1 / (v + tau2)
    return float(w @ (y - w @ y / w.sum()) ** 2)


def _others(x: Vector) -> Vector:
    """For each element the sum of all others, accurate also where one element dwarfs them."""
    others: Vector = x.sum() - x
    largest = int(x.argmax())
    others[largest] = np.delete(x, largest).sum()
    return others


def _trace(w: Vector) -> float:
    """tr P = sum w - sum w^2 / sum w."""
    return float(w @ _others(w) / w.sum())


def _trace_of_square(w: Vector) -> float:
    """tr PP, twice the expected information about tau2."""
    return float(w**2 @ (_others(w) ** 2 + _others(w**2)) / w.sum() ** 2)


def _heterogeneity(v: Vector, tau2: float, q: float, *, fixed: bool) -> tuple[float, float]:
    degrees_of_freedom = len(v) - 1
    if not degrees_of_freedom:
        return 0.0, 1.0
    if fixed:
        return (100 * max(0.0, (q - degrees_of_freedom) / q) if q else 0.0), q / degrees_of_freedom
    typical = degrees_of_freedom / _trace(1 / v)
    return 100 * tau2 / (tau2 + typical), 1 + tau2 / typical


def _hksj_se(y: Vector, w: Vector, estimate: float) -> float:
    variance = float(w @ (y - estimate) ** 2 / (len(y) - 1) / w.sum())
    if not variance:
        raise InvalidRequest("test hksj is not defined where all effects are equal", hint="Use test wald.")
    return math.sqrt(variance)


def _restricted_log_likelihood(y: Vector, v: Vector, tau2: float) -> float:
    total = (1 / (v + tau2)).sum()
    return float(-0.5 * (np.log(v + tau2).sum() + np.log(total) + _q(y, v, tau2)))


def _interval(center: float, half_width: float) -> tuple[float, float]:
    return center - half_width, center + half_width


def _not_converged(method: str, iterations: int) -> InvalidRequest:
    return InvalidRequest(
        f"{method} did not converge within {iterations} steps", hint="Use method DL, or look for a mistaken variance."
    )
