"""API tokens: what is stored of them, who they admit, and when they stop."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from syndb_common.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unauthenticated
from syndb_hub.auth import Principal, Right, TokenService
from syndb_hub.auth.commands import create_token, list_tokens, revoke_token
from syndb_hub.store import Store


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


async def test_a_token_admits_its_holder_with_its_rights(store):
    tokens = TokenService(store)
    issued = await tokens.create("laptop", [Right.QUERY])
    principal = await tokens.verify(issued.text)
    assert principal == Principal(issued.record.id, "laptop", frozenset({Right.QUERY}))


async def test_the_secret_is_stored_nowhere_and_shown_in_no_repr(store, tmp_path):
    issued = await TokenService(store).create("laptop")
    secret = issued.text.split("_", 2)[2]
    assert len(secret) >= 43  # 256 bits in base64
    assert issued.record.secret_sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in repr(issued)
    assert issued.record.secret_sha256 not in repr(issued)
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"),
        lambda text: text + "A",
        lambda text: text.upper(),
        lambda text: text + "\n",
        lambda text: "syndb_" + "0" * 16 + text[22:],
        lambda text: "syndb_" + "ü" * 16 + text[22:],
    ],
)
async def test_anything_but_the_whole_token_is_refused(store, change):
    tokens = TokenService(store)
    issued = await tokens.create("laptop")
    with pytest.raises(Unauthenticated, match="not valid"):
        await tokens.verify(change(issued.text))


async def test_an_expired_token_is_refused(store):
    clock = Clock()
    tokens = TokenService(store, now=clock)
    issued = await tokens.create("laptop", lifetime=timedelta(days=2))
    clock.time += timedelta(days=2, seconds=-1)
    await tokens.verify(issued.text)
    clock.time += timedelta(seconds=1)
    with pytest.raises(Unauthenticated, match="expired"):
        await tokens.verify(issued.text)


async def test_a_revoked_token_is_refused_and_its_name_is_free_again(store):
    tokens = TokenService(store)
    first = await tokens.create("laptop")
    await tokens.revoke("laptop")
    with pytest.raises(Unauthenticated, match="revoked"):
        await tokens.verify(first.text)
    second = await tokens.create("laptop")
    assert (await tokens.verify(second.text)).name == "laptop"
    assert [record.revoked_at is None for record in await tokens.list()] == [True, False]


async def test_a_token_can_be_revoked_by_its_id(store):
    tokens = TokenService(store)
    issued = await tokens.create("laptop")
    await tokens.revoke(issued.record.id)
    with pytest.raises(Unauthenticated):
        await tokens.verify(issued.text)


async def test_revoking_what_is_not_valid_is_an_error(store):
    with pytest.raises(NotFound):
        await TokenService(store).revoke("nobody")


async def test_two_valid_tokens_cannot_share_a_name(store):
    tokens = TokenService(store)
    await tokens.create("laptop")
    with pytest.raises(Conflict, match="laptop"):
        await tokens.create("laptop")


@pytest.mark.parametrize(
    ("name", "rights", "lifetime"),
    [
        ("", [Right.QUERY], timedelta(days=1)),
        ("two\nlines", [Right.QUERY], timedelta(days=1)),
        ("laptop", [], timedelta(days=1)),
        ("laptop", [Right.QUERY], timedelta(0)),
        ("laptop", [Right.QUERY], timedelta(days=100_000)),
    ],
)
async def test_a_token_needs_a_name_a_right_and_an_end(store, name, rights, lifetime):
    with pytest.raises(InvalidRequest):
        await TokenService(store).create(name, rights, lifetime)


def test_a_principal_may_what_its_token_says():
    reader = Principal("1", "reader", frozenset({Right.QUERY}))
    reader.require(Right.QUERY)
    with pytest.raises(Forbidden, match="federation"):
        reader.require(Right.FEDERATION)
    everything = Principal("2", "everything", frozenset({Right.EVERYTHING}))
    for right in Right:
        everything.require(right)


def test_the_commands_work_on_the_file_of_a_hub(tmp_path):
    path = tmp_path / "hub.sqlite"
    issued = create_token(path, "operator", [Right.ADMIN], timedelta(days=3))
    assert [record.name for record in list_tokens(path)] == ["operator"]
    revoke_token(path, "operator")
    assert list_tokens(path)[0].revoked_at is not None
    assert issued.text.startswith("syndb_")


async def test_a_token_survives_a_restart(tmp_path):
    store = await Store.open(tmp_path / "hub.sqlite")
    issued = await TokenService(store).create("laptop")
    await store.close()
    store = await Store.open(tmp_path / "hub.sqlite")
    assert (await TokenService(store).verify(issued.text)).name == "laptop"
    await store.close()
