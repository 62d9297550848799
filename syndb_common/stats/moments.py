"""Number, mean and squared deviations of a set of values: all a mean or a variance needs, and mergeable.

Sums of squares are not kept: at a large offset they lose every digit of the variance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from syndb_common.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Moments:
    """The first two moments of a set of values.

    Attributes:
        n: number of values.
        mean: arithmetic mean, in the unit of the values; 0 when there are none.
        m2: sum of squared deviations from the mean, in that unit squared.
    """

    n: int
    mean: float
    m2: float

    @property
    def variance(self) -> float | None:
        """Sample variance (n - 1 in the denominator); None for fewer than two values."""
        return self.m2 / (self.n - 1) if self.n > 1 else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation; None for fewer than two values."""
        return None if self.variance is None else math.sqrt(self.variance)

    @staticmethod
    def of(values: Iterable[float]) -> Moments:
        """Moments of the values themselves, by two passes with exact sums.

        Raises:
            InvalidRequest: a value is NaN or infinite; leave missing values out.
        """
        kept = [float(value) for value in values]
        if not all(map(math.isfinite, kept)):
            raise InvalidRequest("moments need finite values", hint="Leave missing values out.")
        if not kept:
            return Moments(0, 0.0, 0.0)
        mean = math.fsum(kept) / len(kept)
        return Moments(len(kept), mean, math.fsum((value - mean) ** 2 for value in kept))


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the union of two disjoint sets of values.

    The pairwise rule of Chan, Golub and LeVeque (1979), "Updating formulae and a pairwise algorithm for computing
    sample variances", Stanford STAN-CS-79-773: with d the difference of the means, M2 = M2a + M2b + d^2 na nb / n. What
    limits the result is the rounding of the means: its relative error is about |mean| / sd * 2^-52.
    """
    if not a.n or not b.n:
        return a if a.n else b
    n = a.n + b.n
    difference = b.mean - a.mean
    return Moments(n, a.mean + difference * (b.n / n), a.m2 + b.m2 + difference**2 * (a.n * (b.n / n)))
