"""Kept things age by the time that goes by, wherever the machine's clock is set to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from syndb_hub.ages import Ages

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize("step", [timedelta(0), 30 * 24 * HOUR, -30 * 24 * HOUR])
def test_what_is_new_ages_by_the_time_that_goes_by(step: timedelta) -> None:
    wall, passed, each = [NOW], [100.0], uuid4()
    ages = Ages(lambda: wall[0], clock=lambda: passed[0])
    ages.begin(each)
    wall[0] += step
    passed[0] += 3600
    assert ages.of(each, NOW) == HOUR


@pytest.mark.parametrize(("dated", "age"), [(-2 * HOUR, 2 * HOUR), (2 * HOUR, timedelta(0))], ids=["past", "future"])
def test_what_an_earlier_run_left_is_as_old_as_its_date_says_once_and_then_ages(
    dated: timedelta, age: timedelta
) -> None:
    wall, passed, each = [NOW], [100.0], uuid4()
    ages = Ages(lambda: wall[0], clock=lambda: passed[0])
    assert ages.of(each, NOW + dated) == age
    wall[0] += 100 * HOUR
    passed[0] += 3600
    assert ages.of(each, NOW + dated) == age + HOUR


def test_what_is_gone_is_forgotten() -> None:
    passed, each = [0.0], uuid4()
    ages = Ages(lambda: NOW, clock=lambda: passed[0])
    ages.begin(each)
    passed[0] += 3600
    ages.forget(each)
    ages.forget(each)
    assert ages.of(each, NOW) == timedelta(0)
