"""By which secrets a node may join: the password, the one before it, an invitation; and by whose word a key follows
another."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from actors.admission import Invitation, Keyring
from actors.registry_messages import ApproveHosts, RevokeKey
from actors.remote.identity import Identity
from actors.remote.proof import hub_proof, key_id, succession_statement, verify
from syndb_common.errors import Conflict, JoinRefused
from syndb_common.messages import CatalogAnnouncement, Succession
from tests.actors.hub_parts import KEY, Attempt, Hub

OLD, INVITED = b"o" * 32, b"i" * 32


async def invite(hub: Hub, *, expires_in: float = 3600.0, **facts: Any) -> Attempt:
    """Make an invitation; returns a node that has it."""
    now = datetime.now(UTC)
    invitation = Invitation(
        key_id=key_id(INVITED), key=INVITED, created_at=now, expires_at=now + timedelta(seconds=expires_in), **facts
    )
    await hub.invitations.create(invitation)
    return Attempt(key=INVITED, key_id=key_id(INVITED))


# The federation password and its rotation


@pytest.mark.parametrize("said", [key_id(KEY), ""])
async def test_a_node_of_either_version_proves_the_password(hub: Hub, said: str) -> None:
    await Attempt(key_id=said, protocol_version=2 if said else 1).join(hub)
    record = hub.node().record
    assert (record.key_id, record.protocol_version) == (key_id(KEY), 2 if said else 1)


@pytest.mark.parametrize("said", [True, False])
async def test_a_password_is_rotated_without_a_node_being_refused(hub: Hub, said: bool) -> None:
    def node(number: int, key: bytes) -> Attempt:
        return Attempt(f"lab-{number}", f"12D3{number}", key, key_id=key_id(key) if said else "")

    nodes = [node(number, OLD) for number in range(3)]
    hub.keyring = Keyring(OLD)
    for each in nodes:
        await each.join(hub)
    hub.keyring = Keyring(KEY, previous=OLD)
    for number, each in enumerate(nodes):
        # Those that have not changed yet come back as before, and the hub proves what they proved.
        challenge = await each.challenge(hub)
        registered = await hub.ask(each.registration(challenge), sender=each.peer_id)
        assert verify(registered.hub_proof, hub_proof(OLD, each.transcript(challenge)))
        assert hub.keyring.secret_of(hub.node(each.name).record.key_id) == "previous password"
        changed = node(number, KEY)
        await changed.join(hub)
        assert hub.keyring.secret_of(hub.node(each.name).record.key_id) == "password"
    hub.keyring = Keyring(KEY)
    for number in range(3):
        await node(number, KEY).join(hub)
    with pytest.raises(JoinRefused, match="password"):
        await Attempt("late-lab", "12D3Late", OLD, key_id=key_id(OLD) if said else "").join(hub)


async def test_a_challenge_taken_before_a_rotation_is_still_good_after_it(hub: Hub) -> None:
    node = Attempt(key_id=key_id(KEY))
    challenge = await node.challenge(hub)
    hub.keyring = Keyring(b"n" * 32, previous=KEY)
    registered = await hub.ask(node.registration(challenge))
    assert verify(registered.hub_proof, hub_proof(KEY, node.transcript(challenge)))
    assert hub.keyring.secret_of(hub.node().record.key_id) == "previous password"


async def test_a_key_is_tried_only_if_it_is_the_one_the_node_means(hub: Hub) -> None:
    hub.keyring = Keyring(KEY, previous=OLD)
    with pytest.raises(JoinRefused, match="password"):
        await Attempt(key=OLD, key_id=key_id(KEY)).join(hub)
    with pytest.raises(JoinRefused, match="password"):
        await Attempt(key=KEY, key_id="0" * 16).join(hub)


def test_keys_are_shown_nowhere() -> None:
    assert "k" * 8 not in repr(Keyring(KEY, previous=OLD))
    assert Keyring(KEY).secret_of("") == ""
    assert Keyring(KEY).secret_of(key_id(INVITED)) == "invitation or older password"


# Invitations


async def test_an_invitation_admits_the_first_who_proves_it_and_nobody_else(hub: Hub) -> None:
    node = await invite(hub)
    challenge = await node.challenge(hub)
    registered = await hub.ask(node.registration(challenge))
    assert verify(registered.hub_proof, hub_proof(INVITED, node.transcript(challenge)))
    with pytest.raises(JoinRefused, match="belongs to another node"):
        await replace(node, name="fly-lab", peer_id="12D3Fly").join(hub)
    await node.join(hub)
    found = await hub.invitations.find(key_id(INVITED))
    assert found is not None
    assert found.used_by == "12D3Worm"


async def test_an_invitation_is_not_used_up_by_who_does_not_know_it(hub: Hub) -> None:
    node = await invite(hub)
    with pytest.raises(JoinRefused, match="password"):
        await replace(node, peer_id="12D3Thief", key=b"x" * 32).join(hub)
    await node.join(hub)


async def test_an_invitation_is_not_found_without_its_id(hub: Hub) -> None:
    node = await invite(hub)
    with pytest.raises(JoinRefused, match="password"):
        await replace(node, key_id="").join(hub)


async def test_an_invitation_for_one_name_is_good_for_no_other(hub: Hub) -> None:
    node = await invite(hub, cluster_name="worm-lab")
    with pytest.raises(JoinRefused, match="for the name worm-lab"):
        await replace(node, name="fly-lab").join(hub)
    await node.join(hub)


async def test_an_invitation_that_has_expired_admits_nobody_new(hub: Hub) -> None:
    node = await invite(hub, expires_in=-1)
    with pytest.raises(JoinRefused, match="expired"):
        await node.join(hub)
    assert hub.directory.clusters == {}


async def test_the_node_that_used_an_invitation_in_time_returns_with_it_for_ever(hub: Hub) -> None:
    node = await invite(hub, expires_in=-1, used_by="12D3Worm")
    for _ in range(2):
        registered = await node.join(hub)
        assert hub.node().record.id == registered.cluster_id
        assert hub.node().record.key_id == key_id(INVITED)


@pytest.mark.parametrize("used_by", [None, "12D3Worm"])
async def test_a_revoked_invitation_admits_nobody_not_even_who_used_it(hub: Hub, used_by: str | None) -> None:
    node = await invite(hub, used_by=used_by)
    await hub.invitations.revoke(key_id(INVITED), datetime.now(UTC))
    with pytest.raises(JoinRefused, match="revoked"):
        await node.join(hub)
    await Attempt(name="fly-lab", peer_id="12D3Fly").join(hub)


async def test_a_name_conflict_does_not_use_up_an_invitation(hub: Hub) -> None:
    await Attempt().join(hub)
    node = await invite(hub)
    with pytest.raises(Conflict):
        await replace(node, peer_id="12D3Other").join(hub)
    await replace(node, name="fly-lab", peer_id="12D3Fly").join(hub)


# A new key of a node


async def test_a_name_moves_to_the_key_that_the_old_one_names(hub: Hub) -> None:
    old, new = Identity.generate(), Identity.generate()
    first = await Attempt(peer_id=old.peer_id).join(hub)
    await hub.ask(CatalogAnnouncement(revision=1, versions=()), sender=old.peer_id)
    again = await Attempt(peer_id=new.peer_id).join(hub, previous=old)
    assert again.cluster_id == first.cluster_id
    assert hub.node().record.peer_id == new.peer_id
    assert hub.directory.by_peer(old.peer_id) is None
    with pytest.raises(JoinRefused):
        await hub.ask(CatalogAnnouncement(revision=2, versions=()), sender=old.peer_id)
    with pytest.raises(Conflict):
        await Attempt(peer_id=old.peer_id).join(hub)
    await Attempt(peer_id=new.peer_id).join(hub, previous=old)
    await Attempt(peer_id=new.peer_id).join(hub)


async def test_a_name_does_not_move_without_the_secret(hub: Hub) -> None:
    old, new = Identity.generate(), Identity.generate()
    await Attempt(peer_id=old.peer_id).join(hub)
    with pytest.raises(JoinRefused, match="password"):
        await Attempt(peer_id=new.peer_id, key=b"x" * 32).join(hub, previous=old)
    assert hub.node().record.peer_id == old.peer_id


async def test_a_name_does_not_move_without_the_old_keys_own_signature(hub: Hub) -> None:
    old, new, other = Identity.generate(), Identity.generate(), Identity.generate()
    await Attempt(peer_id=old.peer_id).join(hub)
    node = Attempt(peer_id=new.peer_id)
    challenge = await node.challenge(hub)
    forged = Succession(
        previous_peer_id=old.peer_id, signature=other.sign(succession_statement(node.transcript(challenge)))
    )
    with pytest.raises(JoinRefused, match="signature"):
        await hub.ask(node.registration(challenge, succession=forged), sender=new.peer_id)
    with pytest.raises(Conflict):
        await Attempt(peer_id=new.peer_id).join(hub, previous=other)
    assert hub.node().record.peer_id == old.peer_id


async def test_a_signature_made_for_one_attempt_is_good_for_no_other(hub: Hub) -> None:
    old, thief = Identity.generate(), Identity.generate()
    await Attempt(peer_id=old.peer_id).join(hub)
    node = Attempt(peer_id=thief.peer_id)
    recorded = old.sign(succession_statement(node.transcript(await node.challenge(hub))))
    challenge = await node.challenge(hub)
    replayed = Succession(previous_peer_id=old.peer_id, signature=recorded)
    with pytest.raises(JoinRefused, match="signature"):
        await hub.ask(node.registration(challenge, succession=replayed), sender=thief.peer_id)


async def test_an_invitation_moves_on_with_the_key(hub: Hub) -> None:
    old, new = Identity.generate(), Identity.generate()
    node = await invite(hub)
    await replace(node, peer_id=old.peer_id).join(hub)
    with pytest.raises(Conflict):
        await replace(node, peer_id=new.peer_id).join(hub)
    await replace(node, peer_id=new.peer_id).join(hub, previous=old)
    await replace(node, peer_id=new.peer_id).join(hub)
    with pytest.raises(JoinRefused, match="belongs to another node"):
        await replace(node, name="fly-lab", peer_id=old.peer_id).join(hub)


async def test_a_key_hands_on_no_name_but_its_own(hub: Hub) -> None:
    old, new = Identity.generate(), Identity.generate()
    node = await invite(hub)
    await replace(node, peer_id=old.peer_id).join(hub)
    with pytest.raises(Conflict, match="hands on no other name than its own, worm-lab"):
        await replace(node, name="fly-lab", peer_id=new.peer_id).join(hub, previous=old)
    assert set(await hub.records()) == {"worm-lab"}
    # The invitation is still the first node's.
    await replace(node, peer_id=old.peer_id).join(hub)


@pytest.mark.parametrize("with_password", [True, False])
async def test_an_invitation_moves_with_no_key_that_has_no_name(hub: Hub, with_password: bool) -> None:
    first, second, third = (Identity.generate() for _ in range(3))
    node = await invite(hub)
    await replace(node, peer_id=first.peer_id).join(hub)
    renewed = Attempt(peer_id=second.peer_id) if with_password else replace(node, peer_id=second.peer_id)
    await renewed.join(hub, previous=first)
    with pytest.raises(JoinRefused, match="belongs to another node"):
        await replace(node, name="fly-lab", peer_id=third.peer_id).join(hub, previous=first)
    assert set(await hub.records()) == {"worm-lab"}


async def test_a_key_that_was_changed_before_the_node_first_joined_joins(hub: Hub) -> None:
    await Attempt(peer_id=(new := Identity.generate()).peer_id).join(hub, previous=Identity.generate())
    assert hub.node().record.peer_id == new.peer_id


async def test_what_was_approved_to_be_dialled_is_approved_for_the_revoked_key_alone(hub: Hub) -> None:
    joined = await Attempt().join(hub)
    await hub.do(ApproveHosts(joined.cluster_id, ("10.0.0.0/8", "node.example")))
    await hub.do(RevokeKey(joined.cluster_id, "stolen"))
    await Attempt(peer_id="12D3Other").join(hub)
    assert hub.node().record.approved_hosts == ()


async def test_a_revoked_key_hands_nothing_on(hub: Hub) -> None:
    old, new = Identity.generate(), Identity.generate()
    joined = await Attempt(peer_id=old.peer_id).join(hub)
    await hub.do(RevokeKey(joined.cluster_id, "stolen"))
    with pytest.raises(JoinRefused, match="revoked"):
        await Attempt(peer_id=new.peer_id).join(hub, previous=old)
    await Attempt(peer_id=new.peer_id).join(hub)
    assert hub.node().record.id == joined.cluster_id


@pytest.mark.parametrize(("name", "standing"), [("worm-lab", "active"), ("", "waiting")])
async def test_an_invitation_for_a_name_whose_key_was_revoked_needs_no_approval(
    hub: Hub, name: str, standing: str
) -> None:
    joined = await Attempt().join(hub)
    await hub.do(RevokeKey(joined.cluster_id, "stolen"))
    node = replace(await invite(hub, cluster_name=name), peer_id="12D3New")
    again = await node.join(hub)
    assert (again.cluster_id, again.standing) == (joined.cluster_id, standing)
