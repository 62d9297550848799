"""Who is held back from joining over HTTP."""

from __future__ import annotations

from uuid import uuid4

import pytest

from actors.remote.identity import Identity
from actors.remote.policy import RateLimit
from actors.remote.proof import generate_nonce
from syndb_common.errors import TooManyRequests
from syndb_common.messages import JoinChallenge, JoinRequest
from syndb_hub.federation.joining import HttpJoining
from tests.actors.federation_parts import Peer

MEMBER, STRANGER = (Identity.generate().peer_id for _ in range(2))


async def ask(joining: HttpJoining, peer_id: str, client: str) -> None:
    request = JoinRequest(cluster_name="worm-lab", node_nonce=generate_nonce(), key_id="", protocol_version=2)
    await joining.challenge(peer_id, request, client=client)


async def test_a_crowd_of_strangers_keeps_no_member_from_joining_again() -> None:
    registry = Peer({JoinRequest: lambda _: JoinChallenge(join_id=uuid4(), hub_nonce=generate_nonce())})
    limit = RateLimit(rate=0.001, burst=2, overall=3)
    joining = HttpJoining(registry, Identity.generate(), MEMBER.__eq__, limit=limit)
    for number in range(6):
        await ask(joining, STRANGER, f"192.0.2.{number}")
    with pytest.raises(TooManyRequests):
        await ask(joining, STRANGER, "192.0.2.7")
    await ask(joining, MEMBER, "192.0.2.8")
    await ask(joining, MEMBER, "192.0.2.8")
    with pytest.raises(TooManyRequests):
        await ask(joining, MEMBER, "192.0.2.8")
