"""What the hub's operator decides about nodes: entering, approving, deactivating, revoking, and where they are
dialled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from actors.addresses import Approval
from actors.directory import NOWHERE, Health, Standing, owned
from actors.health import HealthObservations, HealthObserved, Watch
from actors.registry_messages import (
    Activate,
    ApproveHosts,
    CatalogueRead,
    Deactivate,
    Enter,
    Forget,
    RegisterSigned,
    RevokeKey,
)
from actors.remote.identity import Identity
from actors.remote.proof import body_digest, http_statement
from actors.runtime import ActorCrashed
from actors.runtime.testing import next_event
from syndb_common.errors import Conflict, InvalidRequest, JoinRefused, NotFound, TooManyRequests
from syndb_common.messages import CatalogAnnouncement, Endpoints, LeaveFederation
from syndb_hub.store.clusters import Clusters
from syndb_hub.store.database import Store
from tests.actors.federation_parts import published
from tests.actors.hub_parts import Attempt, Hub, StartHub

SEEN = "192.0.2.7"


def at(host: str, port: int = 50052) -> Endpoints:
    """Endpoints of a node that says it is at one host."""
    family = "dns4" if host[0].isalpha() else "ip4"
    return Endpoints(
        multiaddrs=(f"/{family}/{host}/tcp/4001",), flight=f"grpc+tls://{host}:{port}", flight_certificate="pem"
    )


# Entered by the operator


async def test_an_entered_node_waits_for_the_first_key_that_proves_its_name(hub: Hub) -> None:
    cluster_id = await hub.do(Enter("worm-lab", "10.0.0.5", 50052, institution="Institute of Worms"))
    entered = hub.node()
    assert (entered.record.standing, entered.record.peer_id, entered.dial) == (Standing.PENDING, None, NOWHERE)
    assert "no node has proved" in entered.cause
    assert await hub.told() == []
    joined = await Attempt().join(hub, description="worms")
    record = hub.node().record
    assert (joined.cluster_id, joined.standing) == (cluster_id, "active")
    assert (record.institution, record.description, record.peer_id) == ("Institute of Worms", "worms", "12D3Worm")
    assert record.registered_at == entered.record.registered_at
    assert await hub.told() == [Watch(cluster_id)]
    with pytest.raises(Conflict):
        await Attempt(peer_id="12D3Other").join(hub)


async def test_an_entered_node_is_dialled_at_the_host_entered(hub: Hub) -> None:
    await hub.do(Enter("worm-lab", "10.0.0.5"))
    await Attempt(endpoints=at("10.0.0.5")).join(hub)
    assert hub.node().dial == at("10.0.0.5")


@pytest.mark.parametrize("name", ["worm-lab", "hub"])
async def test_a_name_that_is_taken_is_not_entered(hub: Hub, name: str) -> None:
    await Attempt().join(hub)
    with pytest.raises(Conflict):
        await hub.do(Enter(name))


async def test_a_host_that_is_none_is_not_entered(hub: Hub) -> None:
    with pytest.raises(InvalidRequest):
        await hub.do(Enter("worm-lab", "10.0.0.0.1/x"))
    assert hub.directory.clusters == {}


async def test_several_names_may_wait_for_their_keys(start_hub: StartHub) -> None:
    before = await start_hub()
    for name in ("worm-lab", "fly-lab"):
        await before.do(Enter(name))
    after = await start_hub()
    assert {each.record.name for each in after.directory.clusters.values()} == {"worm-lab", "fly-lab"}
    await Attempt().join(after)


# Approval


async def test_a_new_node_waits_for_approval_and_is_told_so(start_hub: StartHub) -> None:
    hub = await start_hub(require_approval=True)
    joined = await Attempt().join(hub)
    assert (joined.standing, hub.node().record.standing) == ("waiting", Standing.WAITING)
    assert await hub.told() == []
    with pytest.raises(JoinRefused):
        await hub.ask(CatalogAnnouncement(revision=1, versions=()))
    with pytest.raises(JoinRefused):
        await hub.ask(LeaveFederation())
    assert (await Attempt().join(hub)).standing == "waiting"
    await hub.do(HealthObserved(joined.cluster_id, Health.HEALTHY, "", 0, 0.01))
    assert hub.node().health is Health.UNKNOWN
    await hub.do(Activate(joined.cluster_id))
    assert await hub.told() == [Watch(joined.cluster_id)]
    assert (await Attempt().join(hub)).standing == "active"
    await hub.ask(CatalogAnnouncement(revision=1, versions=()))


async def test_a_restarted_hub_remembers_who_waits(start_hub: StartHub) -> None:
    joined = await Attempt().join(await start_hub(require_approval=True))
    after = await start_hub(require_approval=False)
    assert after.directory.clusters[joined.cluster_id].record.standing is Standing.WAITING
    assert (await Attempt().join(after)).standing == "waiting"


async def test_a_key_that_replaces_a_revoked_one_waits_too(start_hub: StartHub) -> None:
    hub = await start_hub(require_approval=True)
    joined = await Attempt().join(hub)
    await hub.do(Activate(joined.cluster_id))
    await hub.do(RevokeKey(joined.cluster_id, "stolen"))
    assert (await Attempt(peer_id="12D3New").join(hub)).standing == "waiting"


async def test_a_key_the_old_one_vouches_for_does_not_wait(start_hub: StartHub) -> None:
    hub, old, new = await start_hub(require_approval=True), Identity.generate(), Identity.generate()
    joined = await Attempt(peer_id=old.peer_id).join(hub)
    await hub.do(Activate(joined.cluster_id))
    assert (await Attempt(peer_id=new.peer_id).join(hub, previous=old)).standing == "active"


async def test_a_name_nobody_has_proved_cannot_be_activated(hub: Hub) -> None:
    cluster_id = await hub.do(Enter("worm-lab"))
    with pytest.raises(Conflict, match="proved"):
        await hub.do(Activate(cluster_id))
    await hub.do(Deactivate(cluster_id))
    with pytest.raises(JoinRefused, match="deactivated"):
        await Attempt().join(hub)
    await hub.do(Activate(cluster_id))
    assert hub.node().record.standing is Standing.WAITING
    assert (await Attempt().join(hub)).standing == "waiting"


# Deactivated


async def test_a_deactivated_node_comes_back_as_it_was_when_it_is_activated(hub: Hub) -> None:
    joined = await Attempt().join(hub)
    await hub.ask(CatalogAnnouncement(revision=5, versions=(published("worm"),)))
    await hub.do(HealthObserved(joined.cluster_id, Health.HEALTHY, "", 0, 0.01))
    await hub.do(Deactivate(joined.cluster_id))
    gone = hub.node()
    assert (gone.health, gone.cause) == (Health.UNKNOWN, "deactivated")
    with pytest.raises(JoinRefused):
        await hub.ask(CatalogAnnouncement(revision=6, versions=()))
    await hub.do(Activate(joined.cluster_id))
    assert [each.version for each in hub.node().versions] == [1]
    await Attempt().join(hub)


# Revoked


async def test_a_revoked_key_is_believed_never_again_and_the_name_waits_for_another(start_hub: StartHub) -> None:
    hub = await start_hub()
    joined = await Attempt().join(hub)
    await hub.ask(CatalogAnnouncement(revision=5, versions=(published("worm"),)))
    await hub.do(RevokeKey(joined.cluster_id, "laptop stolen"))
    assert (hub.node().record.standing, hub.node().record.peer_id) == (Standing.WAITING, None)
    assert "syndb-hub invite --name" in hub.node().cause
    assert hub.directory.by_peer("12D3Worm") is None
    for restarted in (hub, await start_hub()):
        for name in ("worm-lab", "fly-lab"):
            with pytest.raises(JoinRefused, match="revoked") as refused:
                await Attempt(name=name).join(restarted)
            assert "syndb federation init --force --invite-file" in refused.value.hint
        with pytest.raises(JoinRefused):
            await restarted.ask(CatalogAnnouncement(revision=6, versions=()))
    again = await Attempt(peer_id="12D3New").join(restarted)
    assert (again.cluster_id, again.standing) == (joined.cluster_id, "waiting")


async def test_whoever_has_the_password_does_not_get_a_name_whose_key_was_revoked(hub: Hub) -> None:
    joined = await Attempt().join(hub)
    await hub.do(RevokeKey(joined.cluster_id, "stolen, with the configuration"))
    with pytest.raises(Conflict, match="proved"):
        await hub.do(Activate(joined.cluster_id))
    for _ in range(2):
        assert (await Attempt(peer_id="12D3Thief").join(hub)).standing == "waiting"
        with pytest.raises(JoinRefused):
            await hub.ask(CatalogAnnouncement(revision=6, versions=()), sender="12D3Thief")
    await hub.do(RevokeKey(joined.cluster_id, "not ours"))
    assert (await Attempt(peer_id="12D3New").join(hub)).standing == "waiting"
    await hub.do(Activate(joined.cluster_id))
    assert (await Attempt(peer_id="12D3New").join(hub)).standing == "active"


async def test_a_hub_killed_while_it_revokes_has_revoked_or_not(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = await start_hub()
    joined = await Attempt().join(hub)
    # From the first write on that concerns the key, the process gets no further.
    writes = 0
    write = Store.write

    async def dies(store: Store, work: Any) -> Any:
        nonlocal writes
        writes += 1
        if writes > 1:
            await trio.sleep_forever()
        return await write(store, work)

    with monkeypatch.context() as killed, trio.move_on_after(0.5):
        killed.setattr(Store, "write", dies)
        await hub.do(RevokeKey(joined.cluster_id, "stolen"))
    restarted = await start_hub()
    assert restarted.node().record.peer_id is None
    assert restarted.directory.by_peer("12D3Worm") is None
    with pytest.raises(JoinRefused):
        await restarted.ask(CatalogAnnouncement(revision=6, versions=()))


async def test_a_stored_record_that_still_has_a_revoked_key_does_not_count(start_hub: StartHub) -> None:
    hub = await start_hub()
    joined = await Attempt().join(hub)
    record = hub.node().record
    await hub.do(RevokeKey(joined.cluster_id, "stolen"))
    await Clusters(hub.store).save(record)
    restarted = await start_hub()
    assert (restarted.node().record.peer_id, restarted.node().record.standing) == (None, Standing.WAITING)
    assert (await Attempt(peer_id="12D3New").join(restarted)).cluster_id == joined.cluster_id


async def test_what_a_node_owns_stays_its_own_when_it_gets_another_key(hub: Hub) -> None:
    first = await Attempt().join(hub)
    await Attempt(name="fly-lab", peer_id="12D3Fly").join(hub)
    await hub.ask(CatalogAnnouncement(revision=1, versions=(published("worm", content="a"),)))
    await hub.ask(CatalogAnnouncement(revision=1, versions=(published("worm", content="b"),)), sender="12D3Fly")
    await hub.do(RevokeKey(first.cluster_id, "stolen"))
    await Attempt(peer_id="12D3New").join(hub)
    await hub.do(Activate(first.cluster_id))
    [version] = owned(hub.directory.clusters.values()).values()
    assert version.content_hash == "a" * 64


async def test_revoking_the_key_of_a_deactivated_node_does_not_open_its_name(hub: Hub) -> None:
    joined = await Attempt().join(hub)
    await hub.do(Deactivate(joined.cluster_id))
    await hub.do(RevokeKey(joined.cluster_id, "stolen"))
    with pytest.raises(JoinRefused, match="deactivated"):
        await Attempt(peer_id="12D3New").join(hub)


async def test_a_name_without_a_key_has_none_to_revoke(hub: Hub) -> None:
    with pytest.raises(Conflict):
        await hub.do(RevokeKey(await hub.do(Enter("worm-lab")), "why not"))


@pytest.mark.parametrize("kind", [Activate, Deactivate])
async def test_what_is_done_to_a_node_that_does_not_exist_is_said(hub: Hub, kind: type) -> None:
    for message in (kind(uuid4()), RevokeKey(uuid4(), ""), ApproveHosts(uuid4(), ())):
        with pytest.raises(NotFound):
            await hub.do(message)


# Forgotten


async def test_what_is_forgotten_is_gone_after_a_restart_too_and_its_name_is_free(start_hub: StartHub) -> None:
    hub = await start_hub()
    joined = await Attempt().join(hub)
    await hub.ask(CatalogAnnouncement(revision=5, versions=(published("worm"),)))
    await hub.do(HealthObserved(joined.cluster_id, Health.HEALTHY, "", 0, 0.01))
    with pytest.raises(Conflict, match="takes part"):
        await hub.do(Forget(joined.cluster_id))
    await hub.do(Deactivate(joined.cluster_id))
    await hub.do(Forget(joined.cluster_id))
    with pytest.raises(NotFound):
        await hub.do(Forget(joined.cluster_id))
    assert await Clusters(hub.store).transitions(joined.cluster_id) == []
    assert await Clusters(hub.store).load_catalogues() == {}
    for each in (hub, await start_hub()):
        assert (each.directory.clusters, each.directory.by_name("worm-lab"), each.directory.by_peer("12D3Worm")) == (
            {},
            None,
            None,
        )
    again = await Attempt(peer_id="12D3New").join(hub)
    assert again.cluster_id != joined.cluster_id
    assert hub.node().versions == ()


async def test_a_forgotten_nodes_claims_count_no_more(hub: Hub) -> None:
    first = await Attempt().join(hub)
    await Attempt(name="fly-lab", peer_id="12D3Fly").join(hub)
    await hub.ask(CatalogAnnouncement(revision=1, versions=(published("worm", content="a"),)))
    await hub.do(Deactivate(first.cluster_id))
    await hub.do(Forget(first.cluster_id))
    with capture_logs() as logged:
        await hub.ask(CatalogAnnouncement(revision=1, versions=(published("worm", content="b"),)), sender="12D3Fly")
    assert not [each for each in logged if "another node owns" in each["event"]]


async def test_a_revoked_key_stays_revoked_when_its_node_is_forgotten(hub: Hub) -> None:
    joined = await Attempt().join(hub)
    await hub.do(RevokeKey(joined.cluster_id, "stolen"))
    await hub.do(Forget(joined.cluster_id))
    with pytest.raises(JoinRefused, match="revoked"):
        await Attempt().join(hub)


@pytest.mark.parametrize("require_approval", [True, False])
async def test_names_are_bounded_whatever_their_standing(start_hub: StartHub, require_approval: bool) -> None:
    hub = await start_hub(require_approval=require_approval, max_nodes=2)
    entered = await hub.do(Enter("entered-lab"))
    await Attempt().join(hub)
    with pytest.raises(Conflict, match="as many as it takes") as full:
        await Attempt(name="fly-lab", peer_id="12D3Fly").join(hub)
    assert "forget" in full.value.hint
    with pytest.raises(Conflict, match="as many as it takes"):
        await hub.do(Enter("fly-lab"))
    await Attempt().join(hub)
    await hub.do(Forget(entered))
    await Attempt(name="fly-lab", peer_id="12D3Fly").join(hub)


# Where it is dialled


async def test_a_node_is_dialled_where_it_connects_from_and_nowhere_else(hub: Hub) -> None:
    hub.observed["12D3Worm"] = (SEEN,)
    await Attempt(endpoints=at(SEEN)).join(hub)
    assert (hub.node().dial, hub.node().refused_addresses) == (at(SEEN), ())
    with capture_logs() as logged:
        for _ in range(2):
            await Attempt(endpoints=at("10.0.0.1")).join(hub)
    assert hub.node().dial == NOWHERE
    assert [text.split(": ")[0] for text in hub.node().refused_addresses] == [
        "/ip4/10.0.0.1/tcp/4001",
        "grpc+tls://10.0.0.1:50052",
    ]
    assert len([each for each in logged if each["event"] == "addresses not approved"]) == 1


async def test_the_operator_approves_hosts_of_one_node_and_they_last(start_hub: StartHub) -> None:
    hub = await start_hub()
    joined = await Attempt(endpoints=at("10.0.0.1")).join(hub)
    await Attempt(name="fly-lab", peer_id="12D3Fly", endpoints=at("10.0.0.1")).join(hub)
    await hub.do(ApproveHosts(joined.cluster_id, ("10.0.0.0/24",)))
    assert (hub.node().dial, hub.node("fly-lab").dial) == (at("10.0.0.1"), NOWHERE)
    await Attempt(endpoints=at("10.0.0.2")).join(hub)
    assert hub.node().dial == at("10.0.0.2")
    after = await start_hub()
    assert after.node().dial == at("10.0.0.2")
    await after.do(ApproveHosts(joined.cluster_id, ()))
    assert after.node().dial == NOWHERE
    with pytest.raises(InvalidRequest):
        await after.do(ApproveHosts(joined.cluster_id, ("10.0.0.0/24", "no such thing")))


async def test_a_restarted_hub_dials_nodes_where_they_connected_from(start_hub: StartHub) -> None:
    before = await start_hub(approval=Approval.of(["10.1.0.0/16"]))
    before.observed["12D3Worm"] = (SEEN,)
    await Attempt(endpoints=at(SEEN)).join(before)
    await Attempt(name="fly-lab", peer_id="12D3Fly", endpoints=at("10.1.2.3")).join(before)
    after = await start_hub(approval=Approval.of(["10.1.0.0/16"]))
    assert (after.node().dial, after.node("fly-lab").dial) == (at(SEEN), at("10.1.2.3"))
    assert (await start_hub()).node("fly-lab").dial == NOWHERE


async def test_a_name_is_looked_up_beside_the_registry_and_dialled_by_address(hub: Hub) -> None:
    hub.observed["12D3Worm"] = (SEEN,)
    hub.addresses["node.example"] = (SEEN,)
    await Attempt(endpoints=at("node.example")).join(hub)
    await wait_all_tasks_blocked()
    assert hub.node().dial == at(SEEN)
    # The name is pointed at the hub's own machine, and the node joins again.
    hub.addresses["node.example"] = ("127.0.0.1",)
    await Attempt(endpoints=at("node.example")).join(hub)
    await wait_all_tasks_blocked()
    assert hub.node().dial == NOWHERE


async def seen_later(hub: Hub, seconds: float) -> None:
    """The health monitor sees the node after that time."""
    hub.clock.time += seconds
    await hub.do(HealthObserved(hub.node().record.id, Health.HEALTHY, "", 0, 0.01))
    await wait_all_tasks_blocked()


async def test_a_name_that_has_no_address_yet_is_looked_up_again_and_said_to_have_none(hub: Hub) -> None:
    hub.observed["12D3Worm"] = (SEEN,)
    with capture_logs() as logged:
        await Attempt(endpoints=at("node.example")).join(hub)
        await wait_all_tasks_blocked()
    assert [each["event"] for each in logged if each["log_level"] == "warning"] == ["host names not resolved"]
    assert all("node.example is not resolved" in text for text in hub.node().refused_addresses)
    hub.addresses["node.example"] = (SEEN,)
    await seen_later(hub, 30)
    assert hub.node().dial == NOWHERE
    await seen_later(hub, 31)
    assert (hub.node().dial, hub.node().refused_addresses) == (at(SEEN), ())


async def test_a_name_that_leads_elsewhere_now_is_followed_within_the_hour(hub: Hub) -> None:
    joined = await Attempt(endpoints=at("node.example")).join(hub)
    await hub.do(ApproveHosts(joined.cluster_id, ("node.example",)))
    hub.addresses["node.example"] = ("203.0.113.1",)
    await Attempt(endpoints=at("node.example")).join(hub)
    await wait_all_tasks_blocked()
    assert hub.node().dial == at("203.0.113.1")
    hub.addresses["node.example"] = ("203.0.113.2",)
    await seen_later(hub, 3000)
    assert hub.node().dial == at("203.0.113.1")
    await seen_later(hub, 601)
    assert hub.node().dial == at("203.0.113.2")
    # A name server that fails for a while takes nothing away.
    hub.addresses.clear()
    await seen_later(hub, 3601)
    assert hub.node().dial == at("203.0.113.2")
    hub.addresses["node.example"] = ("203.0.113.3",)
    await seen_later(hub, 61)
    assert hub.node().dial == at("203.0.113.3")


async def test_a_node_that_changes_its_names_while_they_are_looked_up_is_dialled_by_the_last(hub: Hub) -> None:
    hub.observed["12D3Worm"] = (SEEN,)
    hub.addresses |= {"old.example": ("10.0.0.1",), "new.example": (SEEN,)}
    for name in ("old.example", "new.example"):
        await Attempt(endpoints=at(name)).join(hub)
    await wait_all_tasks_blocked()
    assert hub.node().dial == at(SEEN)


async def test_a_registry_that_crashes_goes_on_dialling(hub: Hub) -> None:
    hub.observed["12D3Worm"] = (SEEN,)
    hub.addresses["node.example"] = (SEEN,)
    await Attempt(endpoints=at("node.example")).join(hub)
    events = hub.tree.events.subscribe()
    hub.faults.crash(LeaveFederation)
    with pytest.raises(Exception, match="crashed"):
        await hub.ask(LeaveFederation())
    with trio.fail_after(5):
        await next_event(events, ActorCrashed, "registry")
    await hub.do(HealthObservations(()))
    await wait_all_tasks_blocked()
    assert hub.node().dial == at(SEEN)


# Joining over HTTP

DIGEST = body_digest({"institution": "Worms"})


async def test_over_http_the_nodes_signature_stands_for_its_connection(hub: Hub) -> None:
    me = Identity.generate()
    node = Attempt(peer_id=me.peer_id, endpoints=at(SEEN))
    challenge = await node.challenge(hub)
    transcript = node.transcript(challenge)
    signature = me.sign(http_statement(b"node", transcript, DIGEST))
    signed = RegisterSigned(node.registration(challenge), signature, DIGEST, SEEN)
    accepted = await hub.ask(signed, sender=me.peer_id)
    assert accepted.transcript == transcript
    assert (hub.node().record.peer_id, hub.node().record.observed_hosts) == (me.peer_id, (SEEN,))
    assert (accepted.registered.cluster_id, hub.node().dial) == (hub.node().record.id, at(SEEN))


async def test_over_http_nobody_joins_with_a_key_that_is_not_his(hub: Hub) -> None:
    me, thief = Identity.generate(), Identity.generate()
    node = Attempt(peer_id=me.peer_id)
    other = body_digest({"institution": "Flies"})
    for role, signer, digest in ((b"node", thief, DIGEST), (b"hub", me, DIGEST), (b"node", me, other)):
        challenge = await node.challenge(hub)
        signature = signer.sign(http_statement(role, node.transcript(challenge), digest))
        with pytest.raises(JoinRefused, match="signature"):
            await hub.ask(RegisterSigned(node.registration(challenge), signature, DIGEST), sender=me.peer_id)
    assert hub.directory.clusters == {}


async def test_wrong_signatures_do_not_make_the_node_wait_in_whose_name_they_come(hub: Hub) -> None:
    me = Identity.generate()
    victim = Attempt(peer_id=me.peer_id)
    for _ in range(10):
        challenge = await victim.challenge(hub)
        with pytest.raises(JoinRefused, match="signature"):
            await hub.ask(RegisterSigned(victim.registration(challenge), b"s" * 64, DIGEST), sender=me.peer_id)
    await victim.join(hub)


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "198.51.100.1", ""])
async def test_over_http_nobody_is_taken_for_local_since_a_proxy_would_be(hub: Hub, client: str) -> None:
    me = Identity.generate()
    node = Attempt(peer_id=me.peer_id)
    challenge = await node.challenge(hub)
    signature = me.sign(http_statement(b"node", node.transcript(challenge), DIGEST))
    await hub.ask(RegisterSigned(node.registration(challenge), signature, DIGEST, client), sender=me.peer_id)
    assert (hub.node().record.observed_hosts, hub.node().dial) == ((), NOWHERE)


# What the hub tells, and hears


async def test_a_node_is_told_how_often_it_is_pinged_and_which_key_the_hub_changes_to(hub: Hub) -> None:
    assert (await Attempt().join(hub)).next_hub_peer_id == ""
    hub.next_key = Identity.generate().peer_id
    assert (await Attempt().join(hub)).next_hub_peer_id == hub.next_key


async def test_a_node_that_says_it_stops_is_unreachable_at_once_and_for_that_reason(hub: Hub) -> None:
    joined = await Attempt().join(hub)
    await hub.do(HealthObserved(joined.cluster_id, Health.HEALTHY, "", 0, 0.01))
    await hub.ask(LeaveFederation(reason="maintenance"))
    gone = hub.node()
    assert (gone.health, gone.cause) == (Health.UNREACHABLE, "the node stops: maintenance")
    assert gone.since is not None
    # Pings under way tell nothing new: neither that it was healthy before, nor that it does not answer.
    await hub.do(HealthObserved(joined.cluster_id, Health.HEALTHY, "1 ping not answered", 1))
    await hub.do(HealthObserved(joined.cluster_id, Health.UNREACHABLE, "3 pings not answered", 3))
    assert (hub.node().health, hub.node().cause) == (Health.UNREACHABLE, "the node stops: maintenance")
    await hub.do(HealthObserved(joined.cluster_id, Health.HEALTHY, "", 0, 0.01))
    assert hub.node().health is Health.HEALTHY
    kept = [(each.from_state, each.to_state) for each in await Clusters(hub.store).transitions(joined.cluster_id)]
    assert kept == [("unreachable", "healthy"), ("healthy", "unreachable"), ("unknown", "healthy")]


async def test_many_observations_come_as_one_message(hub: Hub) -> None:
    ids = [(await Attempt(name=f"lab-{n}", peer_id=f"12D3{n}").join(hub)).cluster_id for n in range(3)]
    seen = [HealthObserved(each, Health.HEALTHY, "", 0, 0.01, schema_version=9) for each in ids]
    seen += [HealthObserved(ids[0], Health.DEGRADED, "slow", 0, 2.0), HealthObserved(uuid4(), Health.HEALTHY, "", 0)]
    await hub.do(HealthObservations(tuple(seen)))
    assert [hub.node(f"lab-{n}").health for n in range(3)] == [Health.DEGRADED, Health.HEALTHY, Health.HEALTHY]
    kept = await Clusters(hub.store).transitions(ids[0])
    assert [(each.to_state, each.cause) for each in kept] == [("degraded", "slow"), ("healthy", "")]
    assert {each.schema_version for each in await Clusters(hub.store).load()} == {9}


async def test_the_first_page_of_a_catalogue_tells_only_that_there_is_a_new_one(hub: Hub) -> None:
    joined = await Attempt().join(hub)
    await hub.told()
    await hub.ask(CatalogAnnouncement(revision=7, pages=2, versions=(published("worm"),)))
    assert (hub.node().versions, await hub.told()) == ((), [Watch(joined.cluster_id)])
    whole = CatalogAnnouncement(revision=7, versions=(published("worm"), published("fly")))
    await hub.do(CatalogueRead(joined.cluster_id, whole))
    assert (hub.node().catalogue_revision, len(hub.node().versions)) == (7, 2)
    await hub.ask(CatalogAnnouncement(revision=7, pages=2, versions=(published("worm"),)))
    assert await hub.told() == []


async def test_a_member_is_not_held_up_by_strangers_who_guess(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    await Attempt().join(hub)
    for number in range(1200):
        with pytest.raises(JoinRefused):
            await Attempt(name="x", peer_id=f"12D3{number}", key=b"x" * 32).join(hub)
    with pytest.raises(TooManyRequests):
        await Attempt(name="fly-lab", peer_id="12D3Fly").challenge(hub)
    await Attempt().join(hub)
    hub.clock.time += 60
    await Attempt(name="fly-lab", peer_id="12D3Fly").join(hub)


async def test_nothing_is_written_when_a_node_returns_as_it_was(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    await Attempt().join(hub)
    saved = hub.node().record
    monkeypatch.setattr(Clusters, "save", None)
    await Attempt().join(hub)
    assert hub.node().record == saved
    assert replace(saved, software="1") != saved
