"""Joining in two HTTP requests, by a client that was written from the documents alone."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from actors.remote.identity import Identity, is_signed_by
from actors.remote.policy import RateLimit
from actors.remote.proof import (
    Transcript,
    derive_key,
    generate_nonce,
    http_statement,
    hub_proof,
    key_id,
    node_proof,
    succession_statement,
)
from tests.syndb_hub.small_hub import PASSWORD, SmallHub, small_hub

PATH = "/v1/federation/register"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallHub]:
    with small_hub(tmp_path_factory.mktemp("hub")) as running:
        yield running


def text(value: bytes) -> str:
    return base64.b64encode(value).decode()


@cache
def stretched(password: str, hub_peer_id: str) -> bytes:
    return trio.run(derive_key, password, hub_peer_id)


def digest(body: dict[str, Any]) -> bytes:
    """SHA-256 of a body without its signature: compact JSON with sorted keys, nothing but ASCII."""
    unsigned = {name: value for name, value in body.items() if name != "signature"}
    return hashlib.sha256(json.dumps(unsigned, sort_keys=True, separators=(",", ":")).encode()).digest()


class Node:
    """One node's way through both requests."""

    def __init__(self, hub: SmallHub, name: str, password: str = PASSWORD, identity: Identity | None = None) -> None:
        self.hub = hub
        self.name = name
        self.identity = identity or Identity.generate()
        self.nonce = generate_nonce()
        self.key = stretched(password, hub.peer_id)

    def post(self, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(self.hub.url + PATH, json=body, timeout=20)

    def ask(self, **changes: Any) -> httpx.Response:
        first = {
            "peer_id": self.identity.peer_id,
            "cluster_name": self.name,
            "node_nonce": text(self.nonce),
            "key_id": key_id(self.key),
            "protocol_version": 2,
        }
        return self.post(first | changes)

    def transcript(self, challenge: dict[str, Any]) -> Transcript:
        hub_nonce = base64.b64decode(challenge["hub_nonce"])
        return Transcript(self.nonce, hub_nonce, self.identity.peer_id, self.hub.peer_id, self.name)

    def second(self, challenge: dict[str, Any], **changes: Any) -> dict[str, Any]:
        body = {
            "peer_id": self.identity.peer_id,
            "join_id": challenge["join_id"],
            "node_proof": text(node_proof(self.key, self.transcript(challenge))),
            "endpoints": {"multiaddrs": [], "flight": "", "flight_certificate": ""},
            "schema_version": 1,
            "institution": "Institute of Worms",
        } | changes
        return {"signature": self.sign(challenge, body)} | body

    def sign(self, challenge: dict[str, Any], body: dict[str, Any], role: bytes = b"node") -> str:
        return text(self.identity.sign(http_statement(role, self.transcript(challenge), digest(body))))

    def join(self, **changes: Any) -> httpx.Response:
        return self.post(self.second(self.ask().json(), **changes))


def test_a_node_joins_in_two_requests_and_the_hub_proves_and_signs(hub: SmallHub) -> None:
    node = Node(hub, "worm-lab")
    challenge = node.ask().json()
    assert set(challenge) == {"join_id", "hub_nonce", "signature"}
    promised = base64.b64decode(challenge["signature"])
    assert is_signed_by(
        hub.peer_id, promised, http_statement(b"challenge", node.transcript(challenge), digest(challenge))
    )
    answer = node.post(node.second(challenge))
    accepted = answer.json()
    assert answer.status_code == 200, answer.text
    transcript = node.transcript(challenge)
    assert base64.b64decode(accepted["hub_proof"]) == hub_proof(node.key, transcript)
    signature = base64.b64decode(accepted["signature"])
    assert is_signed_by(hub.peer_id, signature, http_statement(b"hub", transcript, digest(accepted)))
    known = hub.node("worm-lab").record
    assert (str(known.id), known.peer_id) == (accepted["cluster_id"], node.identity.peer_id)
    assert (accepted["standing"], accepted["ping_seconds"], known.institution) == (
        "active",
        2.0,
        "Institute of Worms",
    )


def test_a_registration_is_accepted_once(hub: SmallHub) -> None:
    node = Node(hub, "replayed")
    second = node.second(node.ask().json())
    answers = [node.post(second) for _ in range(2)]
    assert [each.status_code for each in answers] == [200, 401]
    assert answers[1].json()["code"] == "join_refused"


def test_a_right_proof_with_another_keys_signature_is_refused(hub: SmallHub) -> None:
    node, thief = Node(hub, "forged"), Identity.generate()
    challenge = node.ask().json()
    second = node.second(challenge)
    forged = text(thief.sign(http_statement(b"node", node.transcript(challenge), digest(second))))
    answer = node.post(second | {"signature": forged})
    assert (answer.status_code, answer.json()["code"]) == (401, "join_refused")
    assert hub.node("forged") is None


def test_the_hubs_own_role_is_no_signature_of_a_node(hub: SmallHub) -> None:
    node = Node(hub, "reflected")
    challenge = node.ask().json()
    second = node.second(challenge)
    wrong = node.sign(challenge, second, role=b"hub")
    assert node.post(second | {"signature": wrong}).status_code == 401


EVIL: dict[str, Any] = {"multiaddrs": [], "flight": "grpc+tls://203.0.113.66:6666", "flight_certificate": "EVIL PEM"}


@pytest.mark.parametrize(
    "change",
    [
        {"endpoints": EVIL},
        {"institution": "Institute of Flies"},
        {"institution": "Institute of Worms "},
        {"schema_version": 2},
        {"software": ""},
        {"more": 1},
    ],
)
def test_nobody_on_the_way_changes_a_word_of_a_registration(hub: SmallHub, change: dict[str, Any]) -> None:
    node = Node(hub, "swapped")
    answer = node.post(node.second(node.ask().json()) | change)
    assert (answer.status_code, "signature" in answer.json()["error"]) == (401, True)
    assert hub.node("swapped") is None


def test_how_a_registration_is_spelt_on_the_way_does_not_matter(hub: SmallHub) -> None:
    node = Node(hub, "spelt")
    second = node.second(
        node.ask().json(), institution="Institut für Würmer \U0001f41b", more={"b": [1, 2.5], "a": None}
    )
    content = json.dumps(dict(reversed(second.items())), indent=3, ensure_ascii=False).encode()
    assert httpx.post(hub.url + PATH, content=content, timeout=20).status_code == 200


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "1" * 5000])
def test_a_registration_with_a_number_that_is_none_is_refused(hub: SmallHub, number: str) -> None:
    node = Node(hub, "odd")
    content = json.dumps(node.second(node.ask().json()))[:-1] + f', "more": {number}}}'
    assert httpx.post(hub.url + PATH, content=content.encode(), timeout=20).status_code == 400


def test_a_challenge_is_good_for_the_peer_that_asked_for_it(hub: SmallHub) -> None:
    first, second = Node(hub, "one"), Node(hub, "one")
    challenge = first.ask().json()
    assert second.post(second.second(challenge)).status_code == 401
    assert hub.node("one") is None


def test_a_wrong_password_is_refused(hub: SmallHub) -> None:
    answer = Node(hub, "stranger", password="another").join()
    assert (answer.status_code, "invalid federation password" in answer.json()["error"]) == (401, True)
    assert hub.node("stranger") is None


def test_a_taken_name_is_a_conflict(hub: SmallHub) -> None:
    assert Node(hub, "taken").join().status_code == 200
    answer = Node(hub, "taken").join()
    assert (answer.status_code, "belongs to another node" in answer.json()["error"]) == (409, True)


def test_a_node_with_a_new_key_keeps_its_name_if_the_old_key_says_so(hub: SmallHub) -> None:
    old = Node(hub, "rotating")
    assert old.join().status_code == 200
    new = Node(hub, "rotating")
    challenge = new.ask().json()
    statement = succession_statement(new.transcript(challenge))
    succession = {"previous_peer_id": old.identity.peer_id, "signature": text(old.identity.sign(statement))}
    answer = new.post(new.second(challenge, succession=succession))
    assert answer.status_code == 200, answer.text
    assert hub.node("rotating").record.peer_id == new.identity.peer_id


@pytest.mark.parametrize(
    "change",
    [
        {"node_nonce": text(b"short")},
        {"node_nonce": "!" * 44},
        {"node_nonce": text(b"n" * 32)[:-1]},
        {"node_nonce": "A" * 10_000},
        {"node_nonce": 7},
        {"peer_id": "nobody"},
        {"peer_id": ""},
        {"cluster_name": "Worm Lab"},
        {"key_id": "xyz"},
        {"protocol_version": "two"},
    ],
)
def test_a_first_request_that_is_none_is_refused_with_the_field(hub: SmallHub, change: dict[str, Any]) -> None:
    answer = Node(hub, "odd").ask(**change)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert next(iter(change)) in answer.json()["error"]


@pytest.mark.parametrize(
    "change",
    [
        {"signature": text(b"s" * 63)},
        {"node_proof": text(b"p" * 31)},
        {"join_id": "none"},
        {"endpoints": {"multiaddrs": ["/ip4/1.2.3.4/tcp/1"] * 17, "flight": "", "flight_certificate": ""}},
        {"endpoints": {"multiaddrs": [], "flight": "http://x", "flight_certificate": ""}},
        {"institution": "x" * 301},
        {"schema_version": -1},
        {"succession": {"previous_peer_id": "x", "signature": ""}},
    ],
)
def test_a_second_request_that_is_none_is_refused_with_the_field(hub: SmallHub, change: dict[str, Any]) -> None:
    answer = Node(hub, "odd").join(**change)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert next(iter(change)) in answer.json()["error"]
    assert hub.node("odd") is None


def test_a_newer_node_may_say_more(hub: SmallHub) -> None:
    node = Node(hub, "newer")
    assert node.post(node.second(node.ask(more="x").json(), more={"x": 1})).status_code == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b'"x"', b"\xff", b'{"join_id": []}'])
def test_what_is_no_request_at_all_is_refused(hub: SmallHub, body: bytes) -> None:
    assert httpx.post(hub.url + PATH, content=body, timeout=20).status_code == 400


def test_a_stranger_is_given_little_room(hub: SmallHub) -> None:
    answer = httpx.post(hub.url + PATH, content=b'{"peer_id": "' + b"x" * 70_000, timeout=20)
    assert (answer.status_code, answer.json()["code"]) == (413, "limit_exceeded")


def test_the_longest_registration_fits(hub: SmallHub) -> None:
    addresses = [f"/dns4/{'a' * 950}{number:02}/tcp/1" for number in range(16)]
    endpoints = {"multiaddrs": addresses, "flight": "", "flight_certificate": "c" * 20_000}
    assert Node(hub, "long").join(endpoints=endpoints, description="d" * 2000).status_code == 200


def test_strangers_are_held_back_by_address_however_many_keys_they_have(tmp_path: Path) -> None:
    with small_hub(tmp_path / "strict", http_limit=RateLimit(rate=0.001, burst=3)) as strict:
        node = Node(strict, "many")
        found = [node.ask(peer_id=Identity.generate().peer_id).status_code for _ in range(5)]
    assert found == [200, 200, 200, 429, 429]
