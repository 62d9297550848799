import contextlib

import pytest

from actors.remote.policy import RPC_POLICY, Policy, RateLimit, Trust
from syndb_common.errors import Forbidden, InvalidRequest, TooManyRequests
from syndb_common.messages import (
    MESSAGES,
    CatalogAnnouncement,
    HealthPing,
    JoinRequest,
    LeaveFederation,
    Message,
    RegisterCluster,
)


def test_every_message_has_its_trust():
    assert set(RPC_POLICY) == set(MESSAGES.values())


def test_only_joining_is_open_to_anyone():
    assert {kind.__name__ for kind, trust in RPC_POLICY.items() if trust is Trust.ANYONE} == {
        "JoinRequest",
        "RegisterCluster",
    }


@pytest.mark.parametrize("kind", MESSAGES.values())
@pytest.mark.parametrize("trust", Trust)
def test_a_peer_sends_only_what_its_trust_allows(kind, trust):
    policy = Policy(lambda peer: trust)
    if RPC_POLICY[kind] in (Trust.ANYONE, trust):
        policy.admit(kind, "peer")
    else:
        with pytest.raises(Forbidden):
            policy.admit(kind, "peer")


def test_a_message_without_entry_is_refused_even_to_the_hub():
    class Unlisted(Message):
        reply_type = HealthPing

    with pytest.raises(Forbidden):
        Policy(lambda peer: Trust.HUB).admit(Unlisted, "peer")


def test_revoking_acts_on_the_next_message():
    members = {"node"}
    policy = Policy(lambda peer: Trust.MEMBER if peer in members else Trust.ANYONE)
    policy.admit(CatalogAnnouncement, "node")
    members.clear()
    with pytest.raises(Forbidden):
        policy.admit(CatalogAnnouncement, "node")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_peer_is_limited_and_recovers():
    clock = Clock()
    policy = Policy(lambda peer: Trust.ANYONE, limit=RateLimit(rate=1, burst=3, clock=clock))
    for _ in range(3):
        policy.admit(JoinRequest, "peer")
    with pytest.raises(TooManyRequests):
        policy.admit(JoinRequest, "peer")
    policy.admit(JoinRequest, "another peer")
    clock.now = 1.0
    policy.admit(JoinRequest, "peer")
    with pytest.raises(TooManyRequests):
        policy.admit(JoinRequest, "peer")


def test_what_is_refused_counts_against_the_rate_of_its_sender():
    clock = Clock()
    policy = Policy(lambda peer: Trust.ANYONE, limit=RateLimit(rate=1, burst=3, clock=clock))
    for _ in range(2):
        with pytest.raises(Forbidden):
            policy.admit(HealthPing, "peer")
    unreadable = InvalidRequest("not a request")
    assert policy.refusal("peer", unreadable) is unreadable
    assert isinstance(policy.refusal("peer", unreadable), TooManyRequests)
    for kind in (HealthPing, JoinRequest):
        with pytest.raises(TooManyRequests):
            policy.admit(kind, "peer")
    assert policy.refusal("another peer", unreadable) is unreadable


def test_many_new_peers_together_are_limited():
    limit = RateLimit(rate=1, burst=3, overall=2, clock=Clock())
    assert sum(limit.admit(f"peer {number}") for number in range(100)) == 6


def test_a_member_that_joins_again_gets_through_a_crowd_of_strangers():
    known = {"node": Trust.MEMBER}
    policy = Policy(
        lambda peer: known.get(peer, Trust.ANYONE), limit=RateLimit(rate=1, burst=3, overall=2, clock=Clock())
    )
    for number in range(100):
        with contextlib.suppress(TooManyRequests):
            policy.admit(JoinRequest, f"stranger {number}")
    with pytest.raises(TooManyRequests):
        policy.admit(JoinRequest, "another stranger")
    for kind in (JoinRequest, RegisterCluster, JoinRequest):
        policy.admit(kind, "node")
    with pytest.raises(TooManyRequests):
        policy.admit(JoinRequest, "node")


def test_what_is_remembered_of_peers_is_bounded():
    limit = RateLimit(keys=10, clock=Clock())
    for number in range(100):
        limit.admit(f"peer {number}")
    assert len(limit._buckets) == 10


def test_a_member_is_limited_for_each_message_alone_and_recovers():
    clock = Clock()
    policy = Policy(lambda peer: Trust.MEMBER, limit=RateLimit(clock=clock))
    admitted = 0
    with contextlib.suppress(TooManyRequests):
        while admitted < 10_000:
            policy.admit(CatalogAnnouncement, "node")
            admitted += 1
    assert admitted == 60
    policy.admit(LeaveFederation, "node")
    policy.admit(CatalogAnnouncement, "another node")
    clock.now += 1
    policy.admit(CatalogAnnouncement, "node")


def test_the_hub_is_not_limited():
    limit = RateLimit(clock=Clock())
    policy = Policy(lambda peer: Trust.HUB, limit=limit)
    while limit.admit("hub"):
        pass
    for _ in range(1000):
        policy.admit(HealthPing, "hub")
    assert not limit.admit("hub"), "others would have to wait"
