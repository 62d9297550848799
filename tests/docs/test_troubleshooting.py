"""Each symptom of the operators' table, produced for real, reads as the table quotes it; and its row names the fix."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from actors.directory import NOWHERE, Directory, Health, Standing
from actors.health import Answered, HealthPolicy, Missed, NodeHealth, judge, transition
from actors.remote.discovery import mdns
from actors.remote.host import open_host
from actors.remote.identity import Identity
from syndb_cli.federation import reaching
from syndb_common.daemon import first_error
from syndb_common.errors import PeerUnavailable
from syndb_common.flight.tls import ensure_certificate
from syndb_common.messages import Endpoints, HealthPing, HealthReport
from syndb_common.syql import parse, plan
from syndb_hub.federation import checks
from syndb_hub.federation.checks import Checks, why_not_asked
from syndb_hub.federation.targets import Holding, assign
from tests.actors.federation_parts import Peer, cluster, published
from tests.docs.pages import rows
from tests.syndb_cli.conftest import VARIABLES, federation
from tests.syndb_cli.test_main import answering
from tests.syndb_hub.small_hub import PASSWORD, SmallHub, small_hub


def fix(message: str) -> str:
    """What the table says to do about a message that somebody reads.

    The most specific row counts: the one that quotes most of it.
    """
    found = []
    for row in rows("docs/operators.md"):
        for quoted in re.findall(r"`([^`]+)`", row[0]) if len(row) == 3 else ():
            parts = [re.escape(part.strip()) for part in quoted.split("…")]
            if max(map(len, parts)) >= 7 and re.search(".*".join(parts), message, re.DOTALL):
                found.append((sum(map(len, parts)), row[2]))
    assert found, f"no row of the table quotes: {message}"
    return max(found)[1]


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user of one's own, a network without other hubs, and logs as they were before."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(mdns, "SERVICE", f"_t{abs(hash(tmp_path)) % 10**9}._udp.local.")
    logs = structlog.get_config()
    yield
    structlog.configure(**logs)


@pytest.fixture
def start_hub(tmp_path: Path) -> Iterator[Callable[..., SmallHub]]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(small_hub(tmp_path / "hub", **options))


def init(hub: SmallHub, *words: str, multicast: bool = False, **changes: str) -> Any:
    facts = {"cluster-name": "worm-lab", "hub-peer-id": hub.peer_id, "federation-password": PASSWORD} | changes
    named = [word for key, value in facts.items() for word in (f"--{key}", value)]
    addresses = [word for address in hub.addresses for word in ("--hub-multiaddr", address)]
    with pytest.MonkeyPatch.context() as patch:
        if not multicast:
            patch.setenv("FEDERATION_ENABLE_MDNS", "false")
        return federation("init", *named, *addresses, "--force", *words)


# The node cannot find its hub


@pytest.mark.slow
def test_a_hub_that_is_not_there_is_an_error_in_time_and_no_hang(start_hub, monkeypatch) -> None:
    monkeypatch.setattr(reaching, "FIND_SECONDS", 1.0)
    hub = start_hub()
    hub.addresses = ("/ip4/127.0.0.1/tcp/1",)
    with_fix = fix(init(hub).stderr)
    assert "FEDERATION_HUB_MULTIADDRS" in with_fix
    assert "UDP 4001" in with_fix


@pytest.mark.slow
def test_multicast_that_does_not_lead_to_the_hub_is_told_from_other_ways(start_hub, monkeypatch) -> None:
    monkeypatch.setattr(reaching, "FIND_SECONDS", 2.0)
    assert init(start_hub()).exit_code == 0
    shown = federation("test", "--json").stdout
    with_fix = fix(shown)
    assert "UDP port 5353" in with_fix
    assert "FEDERATION_ENABLE_MDNS" in with_fix


@pytest.mark.slow
def test_a_network_without_a_hub_or_with_two(tmp_path: Path) -> None:
    words = ["init", "--cluster-name", "a", "--trust-first-hub", "--federation-password", "p"]
    assert "invitation" in fix(federation(*words).stderr)
    with small_hub(tmp_path / "one", multicast=True), small_hub(tmp_path / "two", multicast=True):
        assert "--hub-peer-id" in fix(federation(*words).stderr)


@pytest.mark.slow
def test_another_hub_at_the_address_is_not_taken_for_ones_own(start_hub, monkeypatch) -> None:
    monkeypatch.setattr(reaching, "FIND_SECONDS", 2.0)
    hub = start_hub()
    hub.addresses = tuple(address.split("/p2p/")[0] for address in hub.addresses)
    done = init(hub, **{"hub-peer-id": Identity.generate().peer_id})
    assert done.exit_code == 10
    assert "PeerId" in fix(done.stderr.split("was not found")[1])


# The hub does not take the node


@pytest.mark.slow
def test_a_wrong_password_and_then_too_many(start_hub) -> None:
    hub = start_hub()
    done = init(hub, **{"federation-password": "another"})
    assert "blanks and newlines" in fix(done.stderr.splitlines()[1])
    for _ in range(5):
        done = init(hub, **{"federation-password": "another"})
    assert "wait a minute" in fix(done.stderr.splitlines()[1])


@pytest.mark.slow
def test_a_name_that_is_taken(start_hub, tmp_path: Path) -> None:
    hub = start_hub()
    assert init(hub).exit_code == 0
    done = init(hub, "--data-dir", str(tmp_path / "other"))
    assert "another name" in fix(done.stderr)


@pytest.mark.slow
def test_an_http_address_that_is_no_hubs(start_hub, monkeypatch) -> None:
    monkeypatch.setattr(reaching, "FIND_SECONDS", 0.2)
    hub = start_hub()
    hub.addresses = ("/ip4/127.0.0.1/tcp/1",)
    assert "correct it" in fix(init(hub, "--hub-url", "http://127.0.0.1:1").stderr.splitlines()[1])
    with answering(200, b"hello") as url:
        assert "correct it" in fix(init(hub, "--hub-url", url).stderr.splitlines()[1])


@pytest.mark.slow
def test_an_http_address_to_which_no_proof_is_sent(start_hub, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(reaching, "FIND_SECONDS", 0.2)
    hub = start_hub()
    hub.addresses = ("/ip4/127.0.0.1/tcp/1",)
    assert "`https://` address" in fix(init(hub, "--hub-url", "http://hub.example").stderr.splitlines()[1])
    with small_hub(tmp_path / "other") as other:
        assert "address and PeerId" in fix(init(hub, "--hub-url", other.url).stderr.splitlines()[1])
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.example:1080")
    assert "unset it" in fix(init(hub, "--hub-url", "https://hub.example").stderr.splitlines()[1])


@pytest.mark.parametrize("standing", [Standing.PENDING, Standing.WAITING, Standing.INACTIVE])
def test_a_node_that_takes_no_part(standing: Standing) -> None:
    cause = why_not_asked(cluster("worm-lab", record_facts={"standing": standing}))
    assert ("start the node" if standing is Standing.PENDING else "clusters activate") in fix(cause)


# Schemas, health, clocks


def test_a_node_left_out_for_its_schema() -> None:
    version = published("worm")
    old = cluster("old", health=Health.HEALTHY, versions=(version,), catalogue_revision=1, cause="")
    planned = plan(parse("SELECT COUNT(*) FROM synapses"), [version]).model_copy(update={"minimum_schema": 9})
    [skipped] = assign(planned, [Holding(version, old)], [old]).skipped
    assert "syndb federation sync-schema" in fix(skipped.cause)


REPORT = HealthReport(
    schema_version=3, engine="ok", load=0, catalogue_revision=0, clock=0.0, uptime_seconds=1.0, software=""
)


@pytest.mark.parametrize(
    ("change", "latency", "skew", "does"),
    [
        ({"schema_version": 2}, 0.1, 0.0, "sync-schema"),
        ({"schema_version": 4}, 0.1, 0.0, "update the hub"),
        ({}, 3.0, 0.0, "load, disk and network"),
        ({"engine": "out of memory"}, 0.1, 0.0, "the node's log"),
        ({}, 0.1, 100.0, "NTP"),
        ({}, 0.1, -100.0, "NTP"),
    ],
)
def test_a_degraded_node_says_why(change: dict[str, Any], latency: float, skew: float, does: str) -> None:
    seen = judge(REPORT.model_copy(update=change), latency, skew, HealthPolicy(), schema_version=3)
    assert does in fix("; ".join(seen.definite + seen.slow))


def test_a_node_that_is_gone_or_comes_and_goes_or_was_never_asked() -> None:
    policy, state, now = HealthPolicy(), NodeHealth(), 0.0
    assert "wait for the first ping" in fix(state.cause)
    for _ in range(policy.flap_limit):
        for outcome in [Answered()] * policy.healthy_after + [Missed("no answer within 2 s")] * 3:
            state, now = transition(state, outcome, policy, now), now + 1
    assert state.health is Health.UNREACHABLE
    assert "firewall" in fix(state.cause)
    state = transition(state, Answered(), policy, now)
    assert "network and power" in fix(state.cause)


# What the three tests of a node say


def unreachable(message: Any) -> Any:
    raise PeerUnavailable("nobody answers")


def cause_of(test: str, answer: Callable[[Any], Any], **facts: Any) -> str:
    directory = Directory()
    node = replace(cluster("worm-lab", health=Health.HEALTHY), **facts)
    directory.publish([node])
    nothing: Any = None
    made = Checks(directory=directory, peer=lambda node: Peer({HealthPing: answer}), queries=nothing, schema_version=3)
    return trio.run(getattr(made, test), node).cause


def test_no_connection() -> None:
    cause = cause_of("connectivity", unreachable)
    assert "UDP 4001 or TCP 4001" in fix(cause)
    assert "not tried, since connectivity failed: no connection" in cause_of("query", unreachable)


def test_a_flight_port_that_is_closed_and_an_address_nobody_approved(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checks, "FLIGHT_SECONDS", 0.5)

    pem = ensure_certificate(tmp_path).certificate
    closed = Endpoints(multiaddrs=(), flight="grpc+tls://127.0.0.1:1", flight_certificate=pem)
    cause = cause_of("connectivity", lambda message: REPORT, dial=closed)
    assert "forward the port" in fix(cause)
    cause = cause_of("connectivity", lambda message: REPORT, dial=NOWHERE)
    assert "approve-hosts" in fix(cause)


# The machine


def test_a_port_that_another_program_has() -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    address = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"

    async def listen() -> None:
        async with open_host(Identity.generate(), [address]):
            pass

    with taken, pytest.raises(BaseException) as raised:
        trio.run(listen)
    error = first_error(raised.value)
    assert error is not None
    assert "choose another port" in fix(error.message)


def test_a_key_file_that_others_can_read(tmp_path: Path) -> None:
    key = tmp_path / "identity.key"
    Identity.load_or_create(key)
    key.chmod(0o644)
    with pytest.raises(Exception, match="can be read by others") as raised:
        Identity.load(key)
    assert "chmod 600" in fix(str(raised.value))
