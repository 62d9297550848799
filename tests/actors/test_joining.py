"""One attempt to join, over libp2p's messages and over HTTP: what is proved, to whom, and what is not believed."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio
from pydantic import SecretStr

from actors import http_joining
from actors.http_joining import MAX_ANSWER_BYTES, join_over_http
from actors.joining import Application, FederationSecret, Membership, join
from actors.remote.identity import Identity, is_signed_by
from actors.remote.proof import (
    Transcript,
    derive_key,
    generate_secret,
    http_statement,
    hub_proof,
    key_id,
    node_proof,
    succession_statement,
    verify,
)
from syndb_common.errors import (
    ConfigError,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    JoinRefused,
    PeerUnavailable,
    SynDBError,
)
from syndb_common.messages import JoinChallenge, JoinRequest, RegisterCluster, Registered
from tests.actors.federation_parts import ENDPOINTS, Peer
from tests.actors.node_parts import derived

SECRET = generate_secret()
KEY = derived(SECRET)
HUB, NODE, FORMER = (Identity.generate() for _ in range(3))
APPLICATION = Application(
    membership=Membership("worm-lab", institution="Worms", contact_email="a@example.org", software="node 2"),
    identity=NODE,
    endpoints=ENDPOINTS,
    schema_version=3,
)
CLUSTER = UUID("7d1f3c5a-0000-4000-8000-000000000001")


def transcript(node_nonce: bytes, hub_nonce: bytes = b"h" * 32) -> Transcript:
    return Transcript(node_nonce, hub_nonce, NODE.peer_id, HUB.peer_id, "worm-lab")


class Version1Hub(Peer):
    """Answers as a hub of the version before does: it refuses to hear of ours, and its replies lack what came since."""

    def __init__(self) -> None:
        super().__init__({JoinRequest: self._challenge, RegisterCluster: self._register})

    def _challenge(self, message: JoinRequest) -> JoinChallenge:
        if message.protocol_version not in (0, 1):
            raise InvalidRequest("the node speaks protocol 2, this hub 1")
        self.transcript = transcript(message.node_nonce)
        return JoinChallenge.model_validate({"join_id": str(uuid4()), "hub_nonce": b"h" * 32})

    def _register(self, message: RegisterCluster) -> Registered:
        assert verify(message.node_proof, node_proof(KEY, self.transcript))
        return Registered.model_validate(
            {"cluster_id": str(CLUSTER), "hub_proof": hub_proof(KEY, self.transcript), "schema_version": 1}
        )


async def test_a_hub_of_the_version_before_is_joined() -> None:
    registered = await join(Version1Hub(), HUB.peer_id, KEY, APPLICATION)
    assert (registered.cluster_id, registered.standing, registered.next_hub_peer_id) == (CLUSTER, "active", "")


async def test_a_hub_that_refuses_the_request_itself_is_asked_twice_and_its_first_reason_told() -> None:
    reasons = iter(["first", "second"])

    def refuse(message: Any) -> Any:
        raise InvalidRequest(next(reasons))

    hub = Peer({JoinRequest: refuse})
    with pytest.raises(InvalidRequest, match="first"):
        await join(hub, HUB.peer_id, KEY, APPLICATION)
    assert hub.count(JoinRequest) == 2


async def test_a_new_key_is_vouched_for_by_the_former_in_this_attempt_alone() -> None:
    hub = Version1Hub()
    application = Application(
        membership=APPLICATION.membership, identity=NODE, endpoints=ENDPOINTS, schema_version=3, predecessor=FORMER
    )
    await join(hub, HUB.peer_id, KEY, application)
    [registration] = [message for message in hub.asked if isinstance(message, RegisterCluster)]
    assert registration.succession is not None
    assert registration.succession.previous_peer_id == FORMER.peer_id
    statement = succession_statement(hub.transcript)
    assert is_signed_by(FORMER.peer_id, registration.succession.signature, statement)


async def test_a_key_is_stretched_for_the_hub_that_is_joined_and_once() -> None:
    secret = FederationSecret(SecretStr("a password of a person"))
    first, second = await secret.key(HUB.peer_id), await secret.key(FORMER.peer_id)
    assert first == await derive_key("a password of a person", HUB.peer_id) != second
    with trio.fail_after(1):
        assert await secret.key(HUB.peer_id) is first
    secret.replace(SecretStr(SECRET))
    assert await secret.key(HUB.peer_id) == KEY


def digest(body: dict[str, Any]) -> bytes:
    """SHA-256 of a body without its signature: compact JSON with sorted keys, nothing but ASCII."""
    unsigned = {name: value for name, value in body.items() if name != "signature"}
    return hashlib.sha256(json.dumps(unsigned, sort_keys=True, separators=(",", ":")).encode()).digest()


class HttpHub:
    """The hub's end of joining over HTTP, written from the protocol's description."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.identity = self.challenger = HUB
        self.promise = b"challenge"
        self.key = KEY
        self.url = ""
        self.raw: bytes | None = None
        self.change: dict[str, Any] = {}
        self.swap: dict[str, Any] = {}

    def answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        if "join_id" not in body:
            self.nonce = base64.b64decode(body["node_nonce"])
            assert body["key_id"] == key_id(KEY)
            assert (body["peer_id"], body["cluster_name"], body["protocol_version"]) == (NODE.peer_id, "worm-lab", 2)
            challenge = {"join_id": str(CLUSTER), "hub_nonce": base64.b64encode(b"h" * 32).decode(), "more": 1}
            promise = self.challenger.sign(http_statement(self.promise, transcript(self.nonce), digest(challenge)))
            return 200, challenge | {"signature": base64.b64encode(promise).decode()}
        agreed = transcript(self.nonce)
        assert verify(base64.b64decode(body["node_proof"]), node_proof(KEY, agreed))
        statement = http_statement(b"node", agreed, digest(body))
        assert is_signed_by(NODE.peer_id, base64.b64decode(body["signature"]), statement)
        assert body["endpoints"] == json.loads(ENDPOINTS.model_dump_json())
        accepted: dict[str, Any] = {
            "cluster_id": str(CLUSTER),
            "hub_proof": base64.b64encode(hub_proof(self.key, agreed)).decode(),
            "schema_version": 3,
            "standing": "active",
            "ping_seconds": 2.0,
            "next_hub_peer_id": FORMER.peer_id,
            "more": [1, 2.5, "\u00fc"],
        }
        signature = self.identity.sign(http_statement(b"hub", agreed, digest(accepted | self.change)))
        return 200, accepted | {"signature": base64.b64encode(signature).decode()} | self.change | self.swap

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            head, body = b"", b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive_some(65536)
            head, _, body = head.partition(b"\r\n\r\n")
            [length] = [int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:")]
            while len(body) < length:
                body += await stream.receive_some(65536)
            content = json.loads(body)
            self.asked.append((head.split(b" ")[1].decode(), content))
            if self.raw is not None:
                await stream.send_all(self.raw)
                return
            status, answer = self.answer(content)
            payload = json.dumps(answer).encode()
            head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(payload)}\r\nconnection: close\r\n\r\n".encode()
            await stream.send_all(head + payload)


@pytest.fixture
async def hub(nursery: trio.Nursery) -> AsyncIterator[HttpHub]:
    hub = HttpHub()
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    hub.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    nursery.start_soon(trio.serve_listeners, hub.serve, [listener])
    yield hub
    nursery.cancel_scope.cancel()


async def joined(hub: HttpHub) -> Registered:
    return await join_over_http(hub.url, HUB.peer_id, KEY, APPLICATION)


async def test_two_requests_join_over_http(hub: HttpHub) -> None:
    registered = await joined(hub)
    assert (registered.cluster_id, registered.standing, registered.ping_seconds) == (CLUSTER, "active", 2.0)
    assert [path for path, _ in hub.asked] == ["/v1/federation/register"] * 2


async def test_the_hubs_next_key_is_signed_too(hub: HttpHub) -> None:
    assert (await joined(hub)).next_hub_peer_id == FORMER.peer_id


@pytest.mark.parametrize(
    "swap",
    [
        {"next_hub_peer_id": NODE.peer_id},
        {"next_hub_peer_id": ""},
        {"standing": "waiting"},
        {"ping_seconds": 2.5},
        {"ping_seconds": None},
        {"schema_version": 4},
        {"more": 2},
    ],
)
async def test_nobody_on_the_way_changes_a_word_of_the_acceptance(hub: HttpHub, swap: dict[str, Any]) -> None:
    hub.swap = swap
    with pytest.raises(JoinRefused, match="is not the hub"):
        await joined(hub)


async def test_whoever_has_the_password_and_not_the_hubs_key_is_refused(hub: HttpHub) -> None:
    hub.identity = FORMER
    with pytest.raises(JoinRefused, match="is not the hub"):
        await joined(hub)


@pytest.mark.parametrize("promise", [b"node", b"hub", None])
async def test_who_answers_at_the_hubs_address_and_does_not_sign_its_challenge_gets_no_proof(
    hub: HttpHub, promise: bytes | None
) -> None:
    if promise is None:
        hub.challenger = FORMER
    else:
        hub.promise = promise
    with pytest.raises(JoinRefused, match="is not the hub"):
        await joined(hub)
    [(_, first)] = hub.asked
    assert "node_proof" not in first


async def test_an_answer_without_a_signature_gets_no_proof(hub: HttpHub) -> None:
    payload = json.dumps({"join_id": str(CLUSTER), "hub_nonce": base64.b64encode(b"h" * 32).decode()}).encode()
    hub.raw = b"HTTP/1.1 200 X\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(payload) + payload
    with pytest.raises(PeerUnavailable, match="not as a hub does"):
        await joined(hub)
    assert len(hub.asked) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://hub.example",
        "HTTP://hub.example:80/x",
        "http://10.0.0.1:8080",
        "http://[fd00::1]",
        "http://localhost.evil",
    ],
)
async def test_nothing_is_sent_unencrypted_beyond_this_machine(url: str) -> None:
    with pytest.raises(ConfigError, match="not encrypted") as refused:
        await join_over_http(url, HUB.peer_id, KEY, APPLICATION)
    assert "https://" in refused.value.hint


async def test_whoever_has_the_hubs_key_and_not_the_password_is_refused(hub: HttpHub) -> None:
    hub.key = b"x" * 32
    with pytest.raises(JoinRefused, match="did not prove"):
        await joined(hub)


async def test_no_secret_and_no_key_travels(hub: HttpHub) -> None:
    await joined(hub)
    sent = json.dumps(hub.asked)
    assert SECRET not in sent
    assert base64.b64encode(KEY).decode() not in sent
    assert KEY.hex() not in sent


async def test_a_new_key_is_vouched_for_over_http_too(hub: HttpHub) -> None:
    application = Application(
        membership=APPLICATION.membership, identity=NODE, endpoints=ENDPOINTS, schema_version=3, predecessor=FORMER
    )
    await join_over_http(hub.url, HUB.peer_id, KEY, application)
    succession = hub.asked[-1][1]["succession"]
    statement = succession_statement(transcript(hub.nonce))
    assert is_signed_by(FORMER.peer_id, base64.b64decode(succession["signature"]), statement)


async def test_what_the_hub_answers_is_what_the_operator_reads(hub: HttpHub) -> None:
    error = {"error": "the name belongs to another node", "code": "conflict", "hint": "Choose another."}
    payload = json.dumps(error).encode()
    hub.raw = b"HTTP/1.1 409 X\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(payload) + payload
    with pytest.raises(Conflict, match="belongs to another") as refused:
        await joined(hub)
    assert refused.value.hint == "Choose another."


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 X\r\ncontent-length: 4\r\n\r\nhtml",
        b"HTTP/1.1 502 X\r\ncontent-length: 4\r\n\r\nhtml",
        b"HTTP/1.1 302 X\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 X\r\n\r\n" + b" " * (MAX_ANSWER_BYTES + 100),
        b"SSH-2.0\r\n\r\n",
        b"",
    ],
)
async def test_what_answers_and_is_no_hub_is_an_unavailable_hub(hub: HttpHub, raw: bytes) -> None:
    hub.raw = raw
    with pytest.raises(PeerUnavailable) as refused:
        await joined(hub)
    assert refused.value.hint or "without end" in refused.value.message
    assert len(hub.asked) == 1


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://[::1]:9", "https://127.0.0.1:9/", "http://[", "https://nowhere.invalid"]
)
async def test_an_address_where_nobody_is_is_an_unavailable_hub(url: str) -> None:
    with pytest.raises(PeerUnavailable, match="cannot be reached"):
        await join_over_http(url, HUB.peer_id, KEY, APPLICATION)


async def test_a_hub_that_does_not_answer_is_given_up(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_joining, "STEP_SECONDS", 0.3)

    async def hang(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, hang, [listener])
    with trio.fail_after(5), pytest.raises(DeadlineExceeded):
        await join_over_http(f"http://127.0.0.1:{listener.socket.getsockname()[1]}", HUB.peer_id, KEY, APPLICATION)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "change", [{"hub_proof": "AAAA"}, {"signature": None}, {"signature": "%%"}, {"ping_seconds": -1}, {"cluster_id": 7}]
)
async def test_an_acceptance_that_cannot_be_read_is_none(hub: HttpHub, change: dict[str, Any]) -> None:
    hub.change = change
    with pytest.raises(SynDBError):
        await joined(hub)
