"""The token bucket, and whose bucket a request is taken from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syndb_common.errors import ConfigError
from syndb_hub.http import middleware
from syndb_hub.http.middleware import RateLimit, uuid7


async def nothing(scope, receive, send) -> None:
    pass


def limiter(clock=lambda: 0.0, **options) -> RateLimit:
    return RateLimit(nothing, **{"per_second": 1.0, "burst": 2, "clock": clock, **options})


def request(peer: str, *forwarded: str) -> dict:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    return {"type": "http", "client": (peer, 1), "headers": headers}


def test_a_burst_is_allowed_and_then_the_sustained_rate():
    now = 0.0
    limit = limiter(clock=lambda: now)
    assert [limit.take("a") for _ in range(3)] == [0.0, 0.0, 1.0]
    now = 0.5
    assert limit.take("a") == 0.5
    now = 1.0
    assert limit.take("a") == 0.0
    assert limit.take("a") == 1.0


def test_clients_do_not_share_a_bucket():
    limit = limiter(burst=1)
    assert limit.take("a") == 0.0
    assert limit.take("b") == 0.0
    assert limit.take("a") > 0.0


@given(st.lists(st.floats(0, 5), max_size=60), st.floats(0.1, 10), st.integers(1, 10))
def test_no_more_than_burst_and_rate_ever_pass(pauses, per_second, burst):
    now = 0.0
    limit = limiter(clock=lambda: now, per_second=per_second, burst=burst)
    passed = 0
    for pause in pauses:
        now += pause
        passed += limit.take("a") == 0.0
        assert passed <= burst + now * per_second + 1e-6


def test_the_table_of_clients_is_bounded_and_forgets_the_silent_one(monkeypatch):
    monkeypatch.setattr(middleware, "MAX_CLIENTS", 3)
    limit = limiter(burst=1)
    for client in ("a", "b", "c"):
        limit.take(client)
    assert limit.take("a") > 0.0
    limit.take("d")
    assert len(limit._buckets) == 3
    assert limit.take("a") > 0.0
    assert limit.take("b") == 0.0


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "client"),
    [
        ("203.0.113.7", ["198.51.100.1"], [], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.1"], ["10.0.0.0/8"], "198.51.100.1"),
        ("10.0.0.1", ["192.0.2.9, 198.51.100.1, 10.0.0.2"], ["10.0.0.0/8"], "198.51.100.1"),
        ("10.0.0.1", ["192.0.2.9", "198.51.100.1"], ["10.0.0.0/8"], "198.51.100.1"),
        ("10.0.0.1", ["nonsense"], ["10.0.0.0/8"], "10.0.0.1"),
        ("10.0.0.1", [], ["10.0.0.1"], "10.0.0.1"),
        ("2001:db8:1:2:3::4", [], [], "2001:db8:1:2:3::4"),
    ],
)
def test_forwarded_addresses_count_only_from_our_proxies(peer, forwarded, trusted, client):
    assert limiter(trusted_proxies=trusted).client(request(peer, *forwarded)) == client


async def test_the_machines_of_one_ipv6_network_share_a_bucket_and_keep_their_addresses():
    limit, answers = limiter(burst=1), []

    async def send(message) -> None:
        answers.append(message)

    first, second, other = (request(f"2001:db8:1:{net}::{host}") for net, host in ((2, 3), (2, 4), (3, 3)))
    for scope in (first, second, other):
        await limit(scope, None, send)
    assert [each["status"] for each in answers if "status" in each] == [429]
    assert [each["state"]["client"] for each in (first, second)] == ["2001:db8:1:2::3", "2001:db8:1:2::4"]


def test_a_wrong_proxy_address_is_a_configuration_error():
    with pytest.raises(ConfigError, match="trusted_proxies"):
        limiter(trusted_proxies=["my-proxy"])


def test_request_ids_are_uuids_of_version_7_in_order_of_time():
    ids = [uuid7() for _ in range(100)]
    assert {each.version for each in ids} == {7}
    assert len(set(ids)) == 100
    stamps = [each.int >> 80 for each in ids]
    assert stamps == sorted(stamps)
