"""Effect sizes of two groups, each known by number, mean and standard deviation.

Measures, signs and sampling variances are those of metafor's ``escalc`` with its default large-sample variances.
"""

from __future__ import annotations

import math

from syndb_common.errors import InvalidRequest

MEASURES = ("MD", "SMD", "ROM")
"""Measures this module computes, by metafor's names."""


def effect_size(
    measure: str, n1: int, mean1: float, sd1: float, n2: int, mean2: float, sd2: float
) -> tuple[float, float]:
    """Effect of group 1 against group 2 and its sampling variance, ``(yi, vi)``.

    =======  ===================================================  ==========================================
    measure  effect                                               source
    =======  ===================================================  ==========================================
    MD       mean1 - mean2                                        unequal variances, sd1^2/n1 + sd2^2/n2
    SMD      J(n1 + n2 - 2) (mean1 - mean2) / pooled sd           Hedges (1981) g with the exact J; variance
                                                                  of Hedges & Olkin (1985)
    ROM      log(mean1 / mean2)                                   Hedges, Gurevitch & Curtis (1999)
    =======  ===================================================  ==========================================

    Args:
        n1, n2: numbers of values, at least 2 each.
        mean1, mean2: means in one unit; of equal sign and not 0 for ROM.
        sd1, sd2: sample standard deviations in that unit, at least 0.

    Raises:
        InvalidRequest: an unknown measure, or numbers the measure is not defined for.
    """
    if n1 < 2 or n2 < 2:
        raise InvalidRequest(f"an effect size needs at least two values in each group, not {n1} and {n2}")
    if not all(map(math.isfinite, (mean1, sd1, mean2, sd2))) or sd1 < 0 or sd2 < 0:
        raise InvalidRequest("means must be finite numbers, standard deviations finite and not negative")
    if measure == "MD":
        yi, vi = mean1 - mean2, sd1**2 / n1 + sd2**2 / n2
    elif measure == "SMD":
        yi, vi = _standardized(n1, mean1, sd1, n2, mean2, sd2)
    elif measure == "ROM":
        yi, vi = _log_ratio(n1, mean1, sd1, n2, mean2, sd2)
    else:
        raise InvalidRequest(f"unknown effect size measure {measure!r}", hint=f"Use one of {', '.join(MEASURES)}.")
    if not (math.isfinite(yi) and math.isfinite(vi) and vi > 0):
        raise InvalidRequest(
            f"{measure} has no usable sampling variance for these groups", hint="At least one group must vary."
        )
    return yi, vi


def small_sample_correction(degrees_of_freedom: float) -> float:
    """Hedges' J: the factor that removes the bias of a standardized difference, exactly (Hedges 1981, eq. 6e)."""
    half = degrees_of_freedom / 2
    return math.exp(math.lgamma(half) - math.log(math.sqrt(half)) - math.lgamma(half - 0.5))


def _standardized(n1: int, mean1: float, sd1: float, n2: int, mean2: float, sd2: float) -> tuple[float, float]:
    degrees_of_freedom = n1 + n2 - 2
    pooled = math.sqrt(((n1 - 1) * sd1**2 + (n2 - 1) * sd2**2) / degrees_of_freedom)
    if pooled == 0:
        raise InvalidRequest("SMD is not defined where no group varies", hint="Use MD, or leave the study out.")
    yi = small_sample_correction(degrees_of_freedom) * (mean1 - mean2) / pooled
    return yi, 1 / n1 + 1 / n2 + yi**2 / (2 * (n1 + n2))


def _log_ratio(n1: int, mean1: float, sd1: float, n2: int, mean2: float, sd2: float) -> tuple[float, float]:
    if mean1 == 0 or mean2 == 0 or (mean1 > 0) != (mean2 > 0):
        raise InvalidRequest(
            f"ROM needs two means of equal sign that are not 0, not {mean1} and {mean2}", hint="Use MD or SMD."
        )
    return math.log(mean1 / mean2), (sd1 / mean1) ** 2 / n1 + (sd2 / mean2) ** 2 / n2
