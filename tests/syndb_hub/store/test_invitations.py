"""Invitations as the hub keeps them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from actors.admission import Invitation
from actors.remote.proof import key_id
from syndb_common.errors import Conflict, NotFound
from syndb_hub.store.invitations import Invitations

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def invitation(number: int = 1, **changes: object) -> Invitation:
    key = bytes([number]) * 32
    made = Invitation(key_id=key_id(key), key=key, created_at=BEGAN, expires_at=BEGAN + timedelta(days=7))
    return replace(made, **changes)


async def test_an_invitation_comes_back_as_it_was_made(store):
    made = invitation(cluster_name="worm")
    await Invitations(store).create(made)
    assert await Invitations(store).find(made.key_id) == made
    assert await Invitations(store).find("0" * 16) is None


async def test_the_node_that_used_it_is_known_and_replaced_when_its_key_changes(store):
    invitations, made = Invitations(store), invitation()
    await invitations.create(made)
    for peer_id in ("12D3old", "12D3new"):
        await invitations.use(made.key_id, peer_id)
        assert await invitations.find(made.key_id) == replace(made, used_by=peer_id)


async def test_a_revoked_invitation_says_since_when_and_is_revoked_once(store):
    invitations, made = Invitations(store), invitation()
    await invitations.create(made)
    await invitations.use(made.key_id, "12D3A")
    assert (await invitations.revoke(made.key_id, BEGAN)).used_by == "12D3A"
    assert (await invitations.find(made.key_id)).revoked_at == BEGAN
    with pytest.raises(NotFound):
        await invitations.revoke(made.key_id, BEGAN)
    with pytest.raises(NotFound):
        await invitations.revoke("0" * 16, BEGAN)


async def test_the_newest_come_first(store):
    made = [invitation(number, created_at=BEGAN + timedelta(hours=number)) for number in (1, 2, 3)]
    for each in made:
        await Invitations(store).create(each)
    assert await Invitations(store).all() == made[::-1]


async def test_invitations_nobody_used_are_forgotten_a_month_after_they_expired(store):
    invitations = Invitations(store)
    used, unused, recent = invitation(1), invitation(2), invitation(3, expires_at=BEGAN + timedelta(days=30))
    for each in (used, unused, recent):
        await invitations.create(each)
    await invitations.use(used.key_id, "12D3A")
    new = invitation(4, created_at=BEGAN + timedelta(days=40))
    await invitations.create(new)
    assert {each.key_id for each in await invitations.all()} == {used.key_id, recent.key_id, new.key_id}


async def test_their_number_is_bounded(store, monkeypatch):
    monkeypatch.setattr("syndb_hub.store.invitations.MAX_OPEN", 2)
    for number in (1, 2):
        await Invitations(store).create(invitation(number))
    with pytest.raises(Conflict):
        await Invitations(store).create(invitation(3))
    await Invitations(store).use(invitation(1).key_id, "12D3A")
    await Invitations(store).create(invitation(3))


def test_the_secret_is_in_no_representation():
    assert "key=" not in repr(invitation())
