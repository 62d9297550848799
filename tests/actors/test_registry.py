"""Who is admitted to a federation, and who is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
import trio
from structlog.testing import capture_logs

from actors import joins, registry_store
from actors.directory import Health
from actors.health import HealthObserved, Watch
from actors.joins import FAILED_PROOFS, JOIN_SECONDS, PENDING_JOINS
from actors.registry_messages import Deactivate
from actors.remote.policy import RateLimit
from actors.remote.proof import generate_nonce, hub_proof, verify
from actors.runtime import ActorCrashed
from actors.runtime.testing import next_event
from syndb_common.errors import Conflict, InvalidRequest, JoinRefused, NotFound, SynDBError, TooManyRequests
from syndb_common.messages import CatalogAnnouncement, JoinChallenge, JoinRequest
from syndb_hub.store.clusters import Clusters
from tests.actors.federation_parts import published
from tests.actors.hub_parts import KEY, SCHEMA, Attempt, Hub, StartHub


async def test_a_node_that_proves_the_password_is_registered_watched_and_given_the_hubs_proof(hub: Hub) -> None:
    node = Attempt()
    challenge = await node.challenge(hub)
    registered = await hub.ask(node.registration(challenge, institution="Institute of Worms"))
    assert verify(registered.hub_proof, hub_proof(KEY, node.transcript(challenge)))
    assert registered.schema_version == SCHEMA
    known = hub.directory.by_name("worm-lab")
    assert known is not None
    assert (known.record.id, known.record.peer_id) == (registered.cluster_id, "12D3Worm")
    assert (known.record.institution, known.record.schema_version) == ("Institute of Worms", 3)
    assert (known.health, known.catalogue_revision) == (Health.UNKNOWN, None)
    assert await hub.records() == {"worm-lab": registered.cluster_id}
    assert await hub.told() == [Watch(registered.cluster_id)]


async def test_a_wrong_proof_registers_nothing_and_says_what_to_check(hub: Hub) -> None:
    with pytest.raises(JoinRefused, match="password") as refused:
        await Attempt(key=b"x" * 32).join(hub)
    assert "SYNDB_FEDERATION_PASSWORD" in refused.value.hint
    assert hub.directory.clusters == {}
    assert await hub.records() == {}


@pytest.mark.parametrize("change", ["peer_id", "name", "nonce"])
async def test_a_proof_made_for_something_else_is_wrong(hub: Hub, change: str) -> None:
    node = Attempt()
    challenge = await node.challenge(hub)
    changes: dict[str, Any] = {"peer_id": "12D3Fly", "name": "fly", "nonce": b"n" * 32}
    other = replace(node, **{change: changes[change]})
    with pytest.raises(JoinRefused):
        await hub.ask(other.registration(challenge))


async def test_the_hubs_own_proof_is_none_for_a_node(hub: Hub) -> None:
    node = Attempt()
    challenge = await node.challenge(hub)
    reflected = node.registration(challenge).model_copy(
        update={"node_proof": hub_proof(KEY, node.transcript(challenge))}
    )
    with pytest.raises(JoinRefused):
        await hub.ask(reflected)


async def test_a_registration_that_is_sent_again_is_refused(hub: Hub) -> None:
    node = Attempt()
    registration = node.registration(await node.challenge(hub))
    await hub.ask(registration)
    with pytest.raises(JoinRefused, match="used"):
        await hub.ask(registration)


async def test_a_challenge_is_void_after_a_wrong_proof(hub: Hub) -> None:
    node = Attempt()
    challenge = await node.challenge(hub)
    with pytest.raises(JoinRefused, match="password"):
        await hub.ask(replace(node, key=b"x" * 32).registration(challenge))
    with pytest.raises(JoinRefused, match="used"):
        await hub.ask(node.registration(challenge))


async def test_a_challenge_of_another_peer_is_refused_and_stays_that_peers_own(hub: Hub) -> None:
    node, thief = Attempt(), Attempt(peer_id="12D3Thief")
    challenge = await node.challenge(hub)
    with pytest.raises(JoinRefused, match="unknown"):
        await hub.ask(thief.registration(challenge), sender="12D3Thief")
    await hub.ask(node.registration(challenge))


async def test_a_challenge_nobody_made_is_refused(hub: Hub) -> None:
    with pytest.raises(JoinRefused):
        await hub.ask(Attempt().registration(JoinChallenge(join_id=uuid4(), hub_nonce=b"h" * 32)))


@pytest.mark.parametrize(("seconds", "accepted"), [(JOIN_SECONDS, True), (JOIN_SECONDS + 0.1, False)])
async def test_a_challenge_ends_with_its_time(hub: Hub, seconds: float, accepted: bool) -> None:
    node = Attempt()
    challenge = await node.challenge(hub)
    hub.clock.time += seconds
    if accepted:
        await hub.ask(node.registration(challenge))
    else:
        with pytest.raises(JoinRefused, match="old"):
            await hub.ask(node.registration(challenge))


async def test_a_name_belongs_to_the_first_peer_that_proved_it(hub: Hub) -> None:
    first = await Attempt().join(hub)
    with pytest.raises(Conflict, match="belongs to another node"):
        await Attempt(peer_id="12D3Other").join(hub)
    assert await hub.records() == {"worm-lab": first.cluster_id}


async def test_of_two_that_join_under_one_name_at_once_one_gets_it(hub: Hub) -> None:
    one, other = Attempt(), Attempt(peer_id="12D3Other")
    challenges = await one.challenge(hub), await other.challenge(hub)
    await hub.ask(other.registration(challenges[1]), sender="12D3Other")
    with pytest.raises(Conflict):
        await hub.ask(one.registration(challenges[0]))
    assert hub.directory.by_name("worm-lab").record.peer_id == "12D3Other"  # type: ignore[union-attr]


async def test_a_peer_has_one_name(hub: Hub) -> None:
    await Attempt().join(hub)
    with pytest.raises(Conflict, match="already registered as worm-lab"):
        await Attempt(name="fly-lab").join(hub)


async def test_no_node_is_called_as_the_hubs_own_data_are(hub: Hub) -> None:
    with pytest.raises(Conflict):
        await Attempt(name="hub").join(hub)
    assert hub.directory.clusters == {}


@pytest.mark.parametrize("name", ["worm-lab", "gone-lab", "free-lab"])
async def test_strangers_do_not_learn_which_names_there_are(hub: Hub, name: str) -> None:
    await Attempt().join(hub)
    gone = await Attempt(name="gone-lab", peer_id="12D3Gone").join(hub)
    await hub.ask(Deactivate(gone.cluster_id), sender=None)
    with pytest.raises(JoinRefused, match="invalid federation password"):
        await Attempt(name=name, peer_id="12D3Stranger", key=b"x" * 32).join(hub)


async def test_joining_again_keeps_the_id_and_the_first_date_and_takes_the_new_facts(hub: Hub) -> None:
    first = await Attempt().join(hub, description="old")
    before = hub.directory.clusters[first.cluster_id].record
    again = await Attempt().join(hub, description="new")
    after = hub.directory.clusters[first.cluster_id].record
    assert again.cluster_id == first.cluster_id
    assert (after.registered_at, after.description) == (before.registered_at, "new")
    assert len(hub.directory.clusters) == 1


async def test_joining_again_keeps_what_the_node_held(hub: Hub) -> None:
    joined = await Attempt().join(hub)
    await hub.ask(CatalogAnnouncement(revision=5, versions=(published("worm"),)))
    await Attempt().join(hub)
    known = hub.directory.clusters[joined.cluster_id]
    assert (known.catalogue_revision, len(known.versions)) == (5, 1)


async def test_a_deactivated_node_is_refused_and_cannot_come_back_under_another_name(hub: Hub) -> None:
    joined = await Attempt().join(hub)
    await hub.ask(Deactivate(joined.cluster_id), sender=None)
    with pytest.raises(JoinRefused, match="deactivated"):
        await Attempt().join(hub)
    with pytest.raises(Conflict):
        await Attempt(name="worm-lab-2").join(hub)
    assert not hub.directory.clusters[joined.cluster_id].record.is_active


async def test_a_ping_that_was_under_way_does_not_revive_a_deactivated_node(hub: Hub) -> None:
    joined = await Attempt().join(hub)
    await hub.ask(Deactivate(joined.cluster_id), sender=None)
    await hub.ask(HealthObserved(joined.cluster_id, Health.HEALTHY, "", 0, 0.01), sender=None)
    assert hub.directory.clusters[joined.cluster_id].health is Health.UNKNOWN


async def test_deactivating_what_does_not_exist_is_said(hub: Hub) -> None:
    with pytest.raises(NotFound):
        await hub.ask(Deactivate(uuid4()), sender=None)


async def test_a_peer_that_guesses_has_to_wait_a_minute_and_others_do_not(hub: Hub) -> None:
    for _ in range(FAILED_PROOFS):
        with pytest.raises(JoinRefused):
            await Attempt(key=b"x" * 32).join(hub)
    with pytest.raises(TooManyRequests):
        await Attempt().join(hub)
    await Attempt(name="fly-lab", peer_id="12D3Fly").join(hub)
    hub.clock.time += 60
    await Attempt().join(hub)


async def test_challenges_taken_beforehand_do_not_allow_more_guesses(hub: Hub) -> None:
    wrong = Attempt(key=b"x" * 32)
    challenges = [await wrong.challenge(hub) for _ in range(FAILED_PROOFS + 1)]
    for challenge in challenges[:FAILED_PROOFS]:
        with pytest.raises(JoinRefused):
            await hub.ask(wrong.registration(challenge))
    with pytest.raises(TooManyRequests):
        await hub.ask(Attempt(nonce=wrong.nonce).registration(challenges[-1]))


async def test_success_forgets_earlier_typos(hub: Hub) -> None:
    for _ in range(2):
        for _ in range(FAILED_PROOFS - 1):
            with pytest.raises(JoinRefused):
                await Attempt(key=b"x" * 32).join(hub)
        await Attempt().join(hub)


def test_peers_that_cost_nothing_make_at_most_twenty_guesses_a_second() -> None:
    clock = [0.0]
    limit = RateLimit(clock=lambda: clock[0])
    messages = 0
    for second in range(61):
        clock[0] = float(second)
        messages += sum(limit.admit(f"stranger {second} {number}") for number in range(300))
    assert messages == 200 + 60 * 40  # the burst, then 40 a second; a guess is a challenge and a registration


async def test_challenges_nobody_comes_back_for_do_not_pile_up(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "PENDING_JOINS", 3)
    nodes = [Attempt(name=f"lab-{number}", peer_id=f"12D3{number}") for number in range(4)]
    challenges = [await node.challenge(hub) for node in nodes]
    with pytest.raises(JoinRefused):
        await hub.ask(nodes[0].registration(challenges[0]), sender="12D30")
    for node, challenge in zip(nodes[1:], challenges[1:], strict=True):
        await hub.ask(node.registration(challenge), sender=node.peer_id)


def test_strangers_cannot_push_out_a_node_that_answers_within_seconds() -> None:
    slowest_answer = 15.0
    assert 2 * (200 + 40 * slowest_answer) < PENDING_JOINS  # over libp2p, and as many over HTTP


async def test_a_hub_that_restarts_knows_its_nodes_and_what_they_were(start_hub: StartHub) -> None:
    before = await start_hub()
    kept = await Attempt().join(before, institution="Institute of Worms")
    gone = await Attempt(name="fly-lab", peer_id="12D3Fly").join(before)
    await before.ask(Deactivate(gone.cluster_id), sender=None)
    after = await start_hub()
    known = after.directory.clusters
    assert {each.record.name: each.record.is_active for each in known.values()} == {"worm-lab": True, "fly-lab": False}
    assert known[kept.cluster_id].record == before.directory.clusters[kept.cluster_id].record
    assert known[kept.cluster_id].health is Health.UNKNOWN
    assert (await Attempt().join(after)).cluster_id == kept.cluster_id


async def test_a_hub_that_restarts_knows_what_its_nodes_held(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_store, "CATALOGUE_SECONDS", 0.0)
    before = await start_hub()
    worm = await Attempt().join(before)
    fly = await Attempt(name="fly-lab", peer_id="12D3Fly").join(before)
    dataset = published("worm").dataset_id
    for revision in (1, 2):
        held = tuple(published("worm", version) for version in range(1, revision + 1))
        await before.ask(CatalogAnnouncement(revision=revision, versions=held, sharing={dataset: "rows"}))
    with trio.fail_after(5):
        while [each.revision for each in (await Clusters(before.store).load_catalogues()).values()] != [2]:  # noqa: ASYNC110
            await trio.sleep(0.01)
    after = (await start_hub()).directory.clusters
    assert [each.version for each in after[worm.cluster_id].versions] == [1, 2]
    assert (after[worm.cluster_id].catalogue_revision, after[worm.cluster_id].sharing) == (2, {dataset: "rows"})
    assert (after[fly.cluster_id].catalogue_revision, after[fly.cluster_id].versions) == (None, ())


async def test_a_registry_that_crashes_keeps_what_was_seen_of_the_nodes(hub: Hub) -> None:
    joined = await Attempt().join(hub)
    await hub.ask(HealthObserved(joined.cluster_id, Health.HEALTHY, "", 0, 0.01), sender=None)
    events = hub.tree.events.subscribe()
    hub.faults.crash(CatalogAnnouncement)
    with pytest.raises(Exception, match="crashed"):
        await hub.ask(CatalogAnnouncement(revision=1, versions=()))
    with trio.fail_after(5):
        await next_event(events, ActorCrashed, "registry")
    await hub.ask(CatalogAnnouncement(revision=2, versions=()))
    assert hub.directory.clusters[joined.cluster_id].health is Health.HEALTHY


async def test_a_catalogue_comes_from_registered_nodes_only(hub: Hub) -> None:
    joined = await Attempt().join(hub)
    announcement = CatalogAnnouncement(revision=9, versions=(published("worm"),))
    with pytest.raises(JoinRefused):
        await hub.ask(announcement, sender="12D3Stranger")
    await hub.ask(announcement)
    known = hub.directory.clusters[joined.cluster_id]
    assert (known.catalogue_revision, [each.metadata.dataset for each in known.versions]) == (9, ["worm"])


async def test_a_claim_to_anothers_data_set_is_logged_once(hub: Hub) -> None:
    await Attempt().join(hub)
    await Attempt(name="fly-lab", peer_id="12D3Fly").join(hub)
    await hub.ask(CatalogAnnouncement(revision=1, versions=(published("worm"),)))
    with capture_logs() as logged:
        for revision in (1, 2):
            claim = CatalogAnnouncement(revision=revision, versions=(published("worm", 2), published("fly")))
            await hub.ask(claim, sender="12D3Fly")
    said = [(each["cluster"], each["dataset"]) for each in logged if "another node owns" in each["event"]]
    assert said == [("fly-lab", "worm")]


async def test_changes_of_health_are_kept_for_audit_and_repetitions_are_not(hub: Hub) -> None:
    joined = await Attempt().join(hub)
    for health in (Health.HEALTHY, Health.HEALTHY, Health.UNREACHABLE, Health.HEALTHY):
        await hub.ask(HealthObserved(joined.cluster_id, health, "cause", 0, 0.01, schema_version=7), sender=None)
    kept = [(each.from_state, each.to_state) for each in await Clusters(hub.store).transitions(joined.cluster_id)]
    assert kept == [("unreachable", "healthy"), ("healthy", "unreachable"), ("unknown", "healthy")]
    assert hub.directory.clusters[joined.cluster_id].record.schema_version == 7


@pytest.mark.parametrize("version", [0, 3, 99])
async def test_a_protocol_that_is_too_old_or_new_is_refused_before_anything_else(hub: Hub, version: int) -> None:
    request = JoinRequest(cluster_name="worm-lab", node_nonce=generate_nonce(), protocol_version=version)
    with pytest.raises(InvalidRequest, match="protocol"):
        await hub.ask(request)


async def test_messages_of_nodes_need_a_peer(hub: Hub) -> None:
    with pytest.raises(SynDBError):
        await hub.ask(JoinRequest(cluster_name="worm-lab", node_nonce=generate_nonce()), sender=None)
