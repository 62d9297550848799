"""The owner's policy: what is not shared on purpose is not shared."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from pydantic import ValidationError

from syndb_common.errors import PolicyRefused
from syndb_common.node_settings import DatasetPolicy, PolicySettings, Share
from syndb_common.syql import Plan, parse, plan
from syndb_common.tables.versions import PublishedVersion
from syndb_node.policy import Policy
from tests.actors.federation_parts import published

WORM, FLY = published("worm"), published("fly")
QUERIES = [
    "SELECT COUNT(*) FROM synapses",
    "SELECT dataset, AVG(synapse_count) FROM synapses GROUP BY dataset",
    "SELECT cid FROM synapses",
]


def reading(*versions: PublishedVersion, text: str = QUERIES[0]) -> Plan:
    return plan(parse(text), versions)


def policy(share: Share = Share.AGGREGATE, **datasets: Share) -> Policy:
    rules = {name: DatasetPolicy(share=level) for name, level in datasets.items()}
    return Policy(PolicySettings(share=share, datasets=rules))


def answers(policy: Policy, plan: Plan, held: Sequence[PublishedVersion]) -> bool:
    try:
        policy.check(plan, held)
    except PolicyRefused:
        return False
    return True


@pytest.mark.parametrize("text", QUERIES)
def test_rows_lets_every_plan_through(text: str) -> None:
    assert answers(policy(Share.ROWS), reading(WORM, FLY, text=text), [WORM, FLY])


@pytest.mark.parametrize("text", QUERIES)
@pytest.mark.parametrize("level", [Share.NONE, Share.COUNT, Share.AGGREGATE])
def test_every_other_level_answers_nothing_until_it_can_be_kept(level: Share, text: str) -> None:
    with pytest.raises(PolicyRefused, match="worm") as refused:
        policy(level).check(reading(WORM, text=text), [WORM])
    assert refused.value.http_status == 403
    assert "dataset != 'worm'" in refused.value.hint


def test_nothing_is_shared_by_default_but_what_can_be_kept() -> None:
    assert PolicySettings().share is Share.AGGREGATE
    with pytest.raises(PolicyRefused):
        Policy(PolicySettings()).check(reading(WORM), [WORM])


def test_a_data_set_has_its_own_rule_before_the_general_one() -> None:
    only_worm = policy(Share.NONE, worm=Share.ROWS)
    only_worm.check(reading(WORM), [WORM, FLY])
    with pytest.raises(PolicyRefused, match="fly"):
        only_worm.check(reading(FLY), [WORM, FLY])
    with pytest.raises(PolicyRefused, match="worm"):
        policy(Share.ROWS, worm=Share.NONE).check(reading(WORM), [WORM])


def test_one_data_set_that_is_not_shared_refuses_the_whole_plan() -> None:
    with pytest.raises(PolicyRefused, match="fly"):
        policy(Share.ROWS, fly=Share.NONE).check(reading(WORM, FLY), [WORM, FLY])


@pytest.mark.parametrize("held", [[], [FLY], [published("worm", 2)]])
def test_what_this_node_does_not_hold_is_not_shared(held: list[PublishedVersion]) -> None:
    with pytest.raises(PolicyRefused, match="version 1"):
        policy(Share.ROWS).check(reading(WORM), held)


def test_renaming_a_data_set_does_not_open_its_earlier_versions() -> None:
    renamed = published("open").model_copy(update={"dataset_id": WORM.dataset_id, "version": 2})
    rules = policy(Share.ROWS, worm=Share.NONE)
    with pytest.raises(PolicyRefused, match="worm"):
        rules.check(reading(WORM), [WORM, renamed])
    rules.check(reading(renamed), [WORM, renamed])


def test_a_plan_that_reads_nothing_reveals_nothing() -> None:
    assert answers(policy(Share.NONE), reading(), [])
    assert not answers(policy(Share.NONE), reading(WORM), [WORM])


def test_a_level_that_does_not_exist_is_no_level() -> None:
    with pytest.raises(ValidationError):
        PolicySettings.model_validate({"share": "everything"})
