"""Who is asked what: locality, replicas, and nodes that cannot be asked."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from actors.directory import Cluster, Directory, Health, Standing
from syndb_common.errors import Conflict, NotFound
from syndb_common.syql import Scope, parse, plan
from syndb_common.tables.versions import PublishedVersion
from syndb_hub.federation.targets import Targets, assign, check_names, lost, schema_too_old, versions, visible
from tests.actors.federation_parts import BEGAN, cluster, published

WORM, FLY, MOUSE = published("worm"), published("fly"), published("mouse")
EARLY = {"registered_at": BEGAN - timedelta(days=1)}


def node(name: str, *versions: PublishedVersion, health: Health = Health.HEALTHY, **facts: Any) -> Cluster:
    return cluster(name, health=health, versions=versions, **{"catalogue_revision": 1, "cause": "", **facts})


def target(
    *nodes: Cluster,
    own: tuple[PublishedVersion, ...] = (),
    text: str = "SELECT COUNT(*) FROM synapses",
    scope: Scope = Scope.FEDERATION,
    cluster_ids: list[Any] | None = None,
    minimum_schema: int = 1,
) -> Targets:
    """Plan and assign a query over these nodes."""
    directory = Directory()
    directory.publish(nodes)
    holdings = visible(directory, own, scope, cluster_ids)
    planned = plan(parse(text), versions(holdings))
    return assign(planned.model_copy(update={"minimum_schema": minimum_schema}), holdings, nodes)


def asked(targets: Targets) -> dict[str, list[int]]:
    """Versions per holder."""
    return {each.name: [dataset.version for dataset in each.plan.datasets] for each in targets.asked}


def names(targets: Targets) -> dict[str, set[Any]]:
    return {each.name: {dataset.dataset_id for dataset in each.plan.datasets} for each in targets.asked}


def skipped(targets: Targets) -> dict[str, str]:
    return {outcome.cluster: outcome.cause for outcome in targets.skipped}


def test_each_holder_is_asked_for_its_own_data_sets() -> None:
    found = target(node("a", WORM, FLY), node("b", MOUSE), own=(published("hub-data"),))
    ids = {name: {WORM.dataset_id, FLY.dataset_id} for name in ("a",)}
    assert names(found) == {**ids, "b": {MOUSE.dataset_id}, "hub": {published("hub-data").dataset_id}}
    assert found.skipped == ()


def test_a_node_without_matching_data_is_not_bothered() -> None:
    found = target(node("a", WORM), node("b", FLY), text="SELECT COUNT(*) FROM synapses WHERE dataset = 'worm'")
    assert list(names(found)) == ["a"]
    assert found.skipped == ()


@pytest.mark.parametrize(
    ("scope", "holders"),
    [(Scope.LOCAL, {"hub"}), (Scope.REMOTE, {"a"}), (Scope.FEDERATION, {"hub", "a"})],
)
def test_the_scope_says_whose_data_are_seen(scope: Scope, holders: set[str]) -> None:
    assert set(names(target(node("a", WORM), own=(FLY,), scope=scope))) == holders


@pytest.mark.parametrize("other", [Health.DEGRADED, Health.UNKNOWN, Health.UNREACHABLE])
@pytest.mark.parametrize("healthy", ["a", "b"])
def test_of_replicas_the_healthy_one_is_asked_and_only_that_one(other: Health, healthy: str) -> None:
    found = target(
        *(node(name, WORM, health=Health.HEALTHY if name == healthy else other) for name in ("a", "b")),
    )
    assert asked(found) == {healthy: [1]}
    assert found.skipped == ()
    assert [holding.holder for holding in found.holdings] == [healthy]


def test_the_hubs_own_replica_costs_no_way_at_all() -> None:
    assert asked(target(node("a", WORM), own=(WORM,))) == {"hub": [1]}


def test_only_the_newest_version_is_asked_for_wherever_it_is() -> None:
    first = node("a", WORM, published("worm", 2), health=Health.UNREACHABLE, record_facts=EARLY)
    assert asked(target(first, node("b", WORM, published("worm", 2)))) == {"b": [2]}


@pytest.mark.parametrize("claim", [published("worm", 2), published("worm", content="b")], ids=["newer", "other"])
@pytest.mark.parametrize("health", Health)
def test_a_data_set_belongs_to_the_node_that_registered_first_whatever_others_claim(
    claim: PublishedVersion, health: Health
) -> None:
    owner = node("z", WORM, health=health, record_facts=EARLY)
    found = target(node("a", claim, FLY), owner)
    assert names(found).get("a") == {FLY.dataset_id}
    assert [each.holder for each in found.holdings if each.version == WORM] == ["z"]


def test_who_registered_at_the_same_moment_is_told_apart_by_id() -> None:
    nodes = [node(name, published("worm", version)) for name, version in (("a", 1), ("b", 2))]
    owner = min(nodes, key=lambda each: each.record.id)
    assert list(names(target(*nodes))) == list(names(target(*reversed(nodes)))) == [owner.record.name]


def test_what_the_hub_publishes_belongs_to_it() -> None:
    assert asked(target(node("a", published("worm", 2), record_facts=EARLY), own=(WORM,))) == {"hub": [1]}


def test_the_claim_of_a_deactivated_node_counts_no_more() -> None:
    gone = node("gone", WORM, record_facts={**EARLY, "standing": Standing.INACTIVE})
    assert asked(target(gone, node("a", published("worm", 2)))) == {"a": [2]}


def test_naming_only_the_node_that_claims_does_not_make_its_claim_true() -> None:
    owner, claims = node("z", WORM, record_facts=EARLY), node("a", published("worm", 2))
    assert names(target(owner, claims, cluster_ids=[claims.record.id])) == {}


def test_a_replica_is_described_by_the_owner() -> None:
    renamed = WORM.model_copy(update={"metadata": FLY.metadata})
    owner = node("z", WORM, health=Health.UNREACHABLE, record_facts=EARLY)
    [holding] = target(owner, node("a", renamed)).holdings
    assert (holding.holder, holding.version) == ("a", WORM)


def test_two_data_sets_of_one_name_are_a_conflict_that_names_both() -> None:
    other = FLY.model_copy(update={"metadata": WORM.metadata})
    with pytest.raises(Conflict) as conflict:
        check_names(target(node("a", WORM), node("b", other)).holdings)
    for said in ("worm", f"{WORM.dataset_id} at a", f"{FLY.dataset_id} at b"):
        assert said in conflict.value.message
    assert "dataset_id" in conflict.value.hint
    check_names(target(node("a", WORM, MOUSE), node("b", FLY)).holdings)


def test_a_node_that_is_not_registered_cannot_be_named() -> None:
    with pytest.raises(NotFound):
        target(node("a", WORM), cluster_ids=[uuid4()])


@pytest.mark.parametrize("health", [Health.UNREACHABLE, Health.UNKNOWN])
def test_a_holder_that_cannot_be_asked_is_skipped_with_the_cause(health: Health) -> None:
    found = target(node("a", WORM), node("b", FLY, health=health, cause="3 pings failed"))
    assert list(names(found)) == ["a"]
    assert skipped(found) == {"b": f"{health}: 3 pings failed"}


def test_a_degraded_holder_is_asked() -> None:
    assert list(names(target(node("a", WORM, health=Health.DEGRADED, cause="slow")))) == ["a"]


@pytest.mark.parametrize("health", Health)
def test_a_node_whose_catalogue_is_unknown_is_reported_since_it_may_hold_an_answer(health: Health) -> None:
    found = target(node("a", WORM), node("b", health=health, catalogue_revision=None))
    assert list(names(found)) == ["a"]
    assert list(skipped(found)) == ["b"]
    if health.routable:
        assert "catalogue" in skipped(found)["b"]


def test_a_node_that_holds_nothing_is_no_loss_when_it_is_gone() -> None:
    assert target(node("a", WORM), node("b", health=Health.UNREACHABLE)).skipped == ()


def test_a_node_with_an_older_schema_than_the_plan_needs_is_skipped() -> None:
    old = cluster(
        "old",
        record_facts={"schema_version": 2},
        health=Health.HEALTHY,
        versions=(WORM,),
        catalogue_revision=1,
    )
    found = target(old, minimum_schema=3)
    assert (found.asked, skipped(found)) == ((), {"old": schema_too_old(2, 3)})
    assert "syndb federation sync-schema" in schema_too_old(2, 3)
    assert list(names(target(old, minimum_schema=2))) == ["old"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_less_healthy_holder_whose_schema_fits_is_asked_before_a_healthy_one_whose_schema_is_too_old(
    order: int,
) -> None:
    old = node("a", WORM, record_facts={"schema_version": 2})
    fitting = node("b", WORM, health=Health.DEGRADED, record_facts={"schema_version": 3})
    gone = node("c", WORM, health=Health.UNREACHABLE, record_facts={"schema_version": 3})
    holders = (old, fitting, gone)[::order]
    assert list(names(target(*holders, minimum_schema=3))) == ["b"]
    assert list(names(target(*holders, minimum_schema=2))) == ["a"]
    without = target(*(old, gone)[::order], minimum_schema=3)
    assert (without.asked, skipped(without)) == ((), {"a": schema_too_old(2, 3)})


def test_a_node_ahead_of_the_hub_is_asked() -> None:
    ahead = node("ahead", WORM, health=Health.DEGRADED, record_facts={"schema_version": 99})
    assert list(names(target(ahead, minimum_schema=3))) == ["ahead"]


@pytest.mark.parametrize("standing", [Standing.PENDING, Standing.WAITING, Standing.INACTIVE])
def test_only_active_nodes_are_asked(standing: Standing) -> None:
    waiting = node("waiting", WORM, record_facts={"standing": standing})
    assert names(target(waiting, node("active", FLY))) == {"active": {FLY.dataset_id}}


def missed(*nodes: Cluster, own: tuple[PublishedVersion, ...] = (), cluster_ids: list[Any] | None = None) -> set[Any]:
    """Holder, data set and version of what is lost to a query of the federation."""
    directory = Directory()
    directory.publish(nodes)
    seen = visible(directory, own, Scope.FEDERATION, cluster_ids)
    return {
        (each.holder, each.version.metadata.dataset, each.version.version)
        for each in lost(directory, own, cluster_ids, seen)
    }


@pytest.mark.parametrize("standing", [Standing.PENDING, Standing.WAITING, Standing.INACTIVE])
def test_what_only_a_node_holds_that_takes_no_part_is_missed(standing: Standing) -> None:
    gone = node("gone", WORM, FLY, record_facts={"standing": standing})
    assert missed(gone, node("a", MOUSE)) == {("gone", "worm", 1), ("gone", "fly", 1)}


def test_what_somebody_active_holds_too_is_not_missed() -> None:
    gone = node("gone", WORM, FLY, MOUSE, record_facts={**EARLY, "standing": Standing.INACTIVE})
    assert missed(gone, node("a", WORM), node("b", FLY), own=(MOUSE,)) == set()


def test_an_active_owner_decides_what_its_versions_are() -> None:
    gone = node("gone", published("worm", content="b"), record_facts={**EARLY, "standing": Standing.INACTIVE})
    assert missed(gone, node("a", WORM)) == set()


def test_a_version_of_a_former_owner_that_its_replicas_do_not_have_is_missed() -> None:
    gone = node("gone", WORM, published("worm", 2), record_facts={**EARLY, "standing": Standing.INACTIVE})
    assert missed(gone, node("a", WORM)) == {("gone", "worm", 2)}


def test_what_a_node_claimed_of_anothers_data_set_is_not_missed_when_it_is_deactivated() -> None:
    claims = node("claims", published("worm", 2), record_facts={"standing": Standing.INACTIVE})
    assert missed(claims, node("a", WORM, record_facts=EARLY)) == set()


def test_only_nodes_that_are_named_are_missed() -> None:
    gone, active = node("gone", WORM, record_facts={"standing": Standing.INACTIVE}), node("a", WORM, FLY)
    assert missed(gone, active, cluster_ids=[active.record.id]) == set()
    assert missed(gone, active, cluster_ids=[gone.record.id]) == {("gone", "worm", 1)}


def test_a_node_that_has_just_joined_again_is_asked_for_what_it_held_and_not_missed() -> None:
    found = target(node("a", WORM, catalogue_revision=None))
    assert (list(names(found)), found.skipped) == (["a"], ())
