"""A proxy that cannot be used is named by its variable, wherever HTTP is spoken."""

from __future__ import annotations

import httpx
import pytest

from actors.http_joining import join_over_http
from syndb_cli.client import Connection
from syndb_cli.federation.connectivity import _over_http
from syndb_common.errors import ConfigError, PeerUnavailable
from syndb_common.proxies import named_proxies
from tests.actors.test_joining import APPLICATION, HUB, KEY

HTTPS = "https://127.0.0.1:9"
UNUSABLE = ["socks5://user:hunter2@proxy.example:1080", "ftp://user:hunter2@proxy.example", "http://proxy.example:port"]


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(params=["ALL_PROXY", "HTTPS_PROXY", "https_proxy"])
def variable(request: pytest.FixtureRequest) -> str:
    """Each variable in which a proxy for HTTPS may stand."""
    return str(request.param)


def told(error: ConfigError, variable: str) -> bool:
    """Whether the variable is named, and no password of it shown."""
    return variable in error.message and variable in error.hint and "hunter2" not in f"{error.message} {error.hint}"


@pytest.mark.parametrize("value", UNUSABLE)
async def test_a_node_that_joins_over_http_names_it(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as refused:
        await join_over_http(HTTPS, HUB.peer_id, KEY, APPLICATION)
    assert told(refused.value, variable)


@pytest.mark.parametrize("value", UNUSABLE)
def test_the_command_line_names_it(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as refused:
        Connection(HTTPS, "").get("/v1/federation/ping")
    assert told(refused.value, variable)
    with pytest.raises(ConfigError):
        next(Connection(HTTPS, "").download("/v1/jobs/1/result"))


@pytest.mark.parametrize("value", UNUSABLE)
async def test_the_test_of_a_node_names_it(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    reached = (await _over_http(HTTPS))[0]
    assert not reached.passed
    assert variable in reached.cause


def test_what_is_no_proxys_fault_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    with pytest.raises(ValueError, match="something else"), named_proxies():
        raise ValueError("something else")
    with pytest.raises(httpx.InvalidURL), named_proxies():
        httpx.URL("http://x:port")


async def test_no_proxy_sees_what_is_not_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "socks5://proxy.example:1")
    with pytest.raises(PeerUnavailable, match=r"127\.0\.0\.1:9.* cannot be reached"):
        await join_over_http("http://127.0.0.1:9", HUB.peer_id, KEY, APPLICATION)
