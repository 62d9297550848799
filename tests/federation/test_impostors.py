"""Peers that lie about who they are, before a real hub with a real node."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from actors.joining import Application, Attempt, Membership, join
from actors.remote.host import open_host
from actors.remote.identity import Identity
from actors.remote.proof import body_digest, derive_key, http_statement
from actors.remote.rpc import RemoteRef, RpcClient
from demo.local import LocalFederation, local_federation
from syndb_common.errors import Conflict, Forbidden, JoinRefused
from syndb_common.messages import CatalogAnnouncement, Endpoints, JoinChallenge, LeaveFederation

NOWHERE = Endpoints(multiaddrs=(), flight="", flight_certificate="")


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """A hub and the node ``a``; what the tests do must not change them."""
    with local_federation(tmp_path_factory.mktemp("federation"), ["a"]) as found:
        found.start_hub()
        found.start_node("a")
        found.wait_healthy(["a"], seconds=90)
        yield found


@pytest.fixture(autouse=True)
def _the_node_stays_what_it_was(joined: LocalFederation) -> Iterator[None]:
    before = known(joined)["a"]
    yield
    joined.wait_healthy(["a"])
    after = known(joined)["a"]
    assert [after[key] for key in ("id", "peer_id", "standing")] == [before["id"], before["peer_id"], "active"]


def known(federation: LocalFederation) -> dict[str, dict[str, Any]]:
    """All nodes as the hub shows them, by name."""
    return {node["name"]: node for node in federation.get("/v1/federation/clusters")}


def said(federation: LocalFederation, text: str) -> bool:
    """Whether the hub's log holds a text."""
    return text in (federation.folder / "hub.log").read_text()


def application(name: str, identity: Identity) -> Application:
    """What a node says that joins under a name."""
    return Application(
        membership=Membership(name=name, software="impostor"), identity=identity, endpoints=NOWHERE, schema_version=0
    )


def as_json(body: dict[str, Any]) -> str:
    """A body with bytes as base64."""
    return json.dumps(body, default=lambda v: base64.b64encode(v).decode() if isinstance(v, bytes) else str(v))


def post(federation: LocalFederation, body: str) -> httpx.Response:
    """One request of a registration over HTTP, as anybody can send it."""
    headers = {"Content-Type": "application/json"}
    return httpx.post(f"{federation.url}/v1/federation/register", content=body, headers=headers, timeout=20)


async def registration(
    federation: LocalFederation, name: str, claimed: str, identity: Identity
) -> tuple[str, str, httpx.Response]:
    """Register over HTTP with the right password, as the PeerId ``claimed``, signing with the key of ``identity``."""
    key = await derive_key(federation.password, federation.hub_peer_id)
    attempt = Attempt(application(name, identity), federation.hub_peer_id, key)
    first = as_json({"peer_id": claimed, **attempt.request().model_dump()})
    answer = post(federation, first).json()
    challenge = JoinChallenge(join_id=answer["join_id"], hub_nonce=base64.b64decode(answer["hub_nonce"]))
    body = {"peer_id": claimed, **attempt.registration(challenge).model_dump(exclude_none=True)}
    signature = identity.sign(http_statement(b"node", attempt.transcript, body_digest(body)))
    second = as_json({**body, "signature": signature})
    return first, second, post(federation, second)


async def test_who_knows_the_password_cannot_take_the_name_of_another_node(joined: LocalFederation) -> None:
    impostor = Identity.generate()
    key = await derive_key(joined.password, joined.hub_peer_id)
    async with open_host(impostor, []) as host:
        hub = RemoteRef(RpcClient(host), joined.hub_peer_id, lambda: joined.hub_listen, "hub")
        with pytest.raises(Conflict, match="a"):
            await join(hub, joined.hub_peer_id, key, application("a", impostor))
        for message in (CatalogAnnouncement(revision=1, versions=()), LeaveFederation()):
            with pytest.raises(Forbidden):
                await hub.ask(message, timeout=10)


async def test_who_knows_the_password_cannot_speak_over_http_for_the_key_of_another_node(
    joined: LocalFederation,
) -> None:
    claimed = known(joined)["a"]["peer_id"]
    _, _, answer = await registration(joined, "a", claimed, Identity.generate())
    assert answer.status_code == JoinRefused.http_status
    assert answer.json()["code"] == JoinRefused.code


async def test_a_registration_that_was_recorded_is_worth_nothing(joined: LocalFederation) -> None:
    node = Identity.generate()
    first, second, answer = await registration(joined, "west", node.peer_id, node)
    assert answer.status_code == 200
    before = known(joined)["west"]
    assert post(joined, second).json()["code"] == JoinRefused.code
    challenge = post(joined, first).json()
    renewed = json.loads(second) | {"join_id": challenge["join_id"]}
    assert post(joined, json.dumps(renewed)).json()["code"] == JoinRefused.code
    assert known(joined)["west"] == before


async def test_a_stranger_with_a_wrong_password_is_refused_and_leaves_no_trace(joined: LocalFederation) -> None:
    stranger = Identity.generate()
    async with open_host(stranger, []) as host:
        hub = RemoteRef(RpcClient(host), joined.hub_peer_id, lambda: joined.hub_listen, "hub")
        with pytest.raises(JoinRefused):
            await join(hub, joined.hub_peer_id, bytes(32), application("stranger", stranger))
    assert "stranger" not in known(joined)
    assert not said(joined, joined.password)
