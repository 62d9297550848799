"""``syndb federation test``: what a node needs, tried for real, in the order in which it is needed.

Of the ways to find the hub one is enough; each is tried alone, so that the operator sees which work.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime

import httpx
import trio

from actors import node_state
from actors.hub_pins import HubPins
from actors.remote.discovery.hub import find_hub
from actors.remote.identity import Identity
from actors.remote.proof import derive_key
from syndb_cli.etl.target import node_target
from syndb_cli.federation import reaching
from syndb_cli.federation.node import is_running, read_state
from syndb_cli.output import was_interrupted
from syndb_common.daemon import first_error
from syndb_common.errors import ConfigError, PeerUnavailable, SynDBError, Unavailable
from syndb_common.flight.uploader import probe
from syndb_common.node_settings import NodeSettings
from syndb_common.proxies import named_proxies

MAX_SKEW_SECONDS = 30.0
"""As `federation.max_clock_skew_seconds` of a hub by default."""
HTTP_SECONDS = 5.0
MDNS_BLOCKED = (
    "Multicast does not lead to the hub: open UDP port 5353, or set federation.enable_mdns = false "
    "(FEDERATION_ENABLE_MDNS=false) and name the hub's address in federation.hub_multiaddrs."
)


@dataclass(frozen=True, slots=True)
class Check:
    """One test.

    Attributes:
        passed: whether it worked.
        cause: why it did not and what to do, or what was seen.
        needed: whether the node does without it, as it does without one of several ways to the hub.
    """

    name: str
    passed: bool
    milliseconds: float
    cause: str = ""
    needed: bool = True

    @property
    def result(self) -> str:
        """For people."""
        return "pass" if self.passed else "FAIL" if self.needed else "no"


async def checks(settings: NodeSettings) -> list[Check]:
    """Configuration, every way to the hub, the hub, its clock, the engine, and what the hub says to the running node.

    All are tried, whatever the first ones say.

    The hub counts as reached when one way led to it: libp2p's handshake has proved its PeerId then.
    """
    found = [await _check("configuration", lambda: _configuration(settings))]
    found.extend(await _ways(settings))
    federation = settings.federation
    over_http: list[Check] = []
    if federation.hub_url:
        over_http = await _over_http(federation.hub_url)
    worked = [each for each in found[1:] if each.passed] + [each for each in over_http[:1] if each.passed]
    if worked:
        reached = Check("hub", True, min(each.milliseconds for each in worked), f"by {worked[0].name}")
    else:
        causes = [each.cause for each in (*found[1:], *over_http[:1])] or [
            f"no way is configured. {reaching.NOT_FOUND}"
        ]
        reached = Check("hub", False, 0.0, causes[0])
    engine = await _check("engine", lambda: _engine(settings))
    membership = await _membership(settings)
    return [*found, *over_http[:1], reached, *over_http[1:], engine, membership]


async def _ways(settings: NodeSettings) -> list[Check]:
    """Every way alone: a throw-away identity connects to the pinned hub, which proves its PeerId; nothing is sent."""
    federation = settings.federation
    try:
        hubs = HubPins(settings.data_dir, federation.hub_peer_id).followed
        async with reaching.opened(Identity.generate(), multicast=federation.enable_mdns) as network:
            results = []
            for way in reaching.ways(settings, hubs, network):

                async def reach(way: reaching.Way = way) -> str:
                    try:
                        reached = await find_hub(network.host, hubs, [way.source], timeout=reaching.FIND_SECONDS)
                    except PeerUnavailable as error:
                        hint = MDNS_BLOCKED if way.name == "mdns" else reaching.NOT_FOUND
                        raise PeerUnavailable(error.message, hint=hint) from None
                    await network.host.disconnect(reached.peer_id)
                    return f"the hub {reached.peer_id} proved its key"

                results.append(await _check(way.name, reach, needed=False))
            return results
    except SynDBError as error:
        return [Check("discovery", False, 0.0, f"{error.message} {error.hint}".strip())]


async def _over_http(url: str) -> list[Check]:
    """The hub's REST API and, if it answers, its clock."""
    skew: list[float] = []

    async def ping() -> str:
        began = time.time()
        try:
            with named_proxies():
                client = httpx.AsyncClient(timeout=HTTP_SECONDS)
            async with client:
                answer = await client.get(f"{url.rstrip('/')}/v1/federation/ping")
            then = datetime.fromisoformat(answer.json()["time"]).timestamp()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(
                f"{url} cannot be reached: {error or type(error).__name__}", hint="Check federation.hub_url."
            ) from None
        except (ValueError, KeyError, TypeError):
            raise Unavailable(f"{url} answers and is no SynDB hub", hint="Check federation.hub_url.") from None
        skew.append((began + time.time()) / 2 - then)
        return "the REST API answers; over it a node joins where libp2p does not get through"

    async def compare() -> str:
        [seconds] = skew
        if abs(seconds) > MAX_SKEW_SECONDS:
            raise Unavailable(
                f"this clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the hub's",
                hint="Switch on time synchronisation (NTP) on the machine whose clock is wrong.",
            )
        return f"{seconds:+.1f} s against the hub's"

    found = [await _check("http", ping, needed=False)]
    if skew:
        found.append(await _check("clock", compare))
    return found


async def _check(name: str, attempt: Callable[[], Awaitable[str]], *, needed: bool = True) -> Check:
    began = time.perf_counter()
    passed, cause = True, ""
    try:
        cause = await attempt()
    except (SynDBError, BaseExceptionGroup) as raised:
        error = first_error(raised)
        if error is None or was_interrupted(raised):
            raise
        passed, cause = False, f"{error.message} {error.hint}".strip()
    return Check(name, passed, (time.perf_counter() - began) * 1000, cause, needed)


async def _configuration(settings: NodeSettings) -> str:
    federation = settings.federation
    await derive_key(federation.password.get_secret_value(), federation.hub_peer_id)
    federation.check_hub_addresses(HubPins(settings.data_dir, federation.hub_peer_id).followed)
    if not settings.data_dir.is_dir():
        raise ConfigError(f"{settings.data_dir} does not exist", hint="Start the node once: syndb-node run")
    return ""


async def _engine(settings: NodeSettings) -> str:
    """The running node's Flight server shows the certificate of this folder and takes the owner's token."""
    target = await trio.to_thread.run_sync(node_target, settings)
    await trio.to_thread.run_sync(probe, target, abandon_on_cancel=True)
    return ""


async def _membership(settings: NodeSettings) -> Check:
    """What the running daemon noted last; only it knows whether the hub takes its proof."""
    running = False

    async def look() -> str:
        nonlocal running
        running = await trio.to_thread.run_sync(is_running, settings.data_dir)
        if not running:
            raise Unavailable("not known: the daemon does not run", hint="Start it: syndb-node run")
        noted = await trio.to_thread.run_sync(read_state, settings.data_dir)
        state, cause, hint = (str(noted.get(key, "")) for key in ("state", "cause", "hint"))
        if state == node_state.REFUSED:
            raise Unavailable(f"{state}: {cause}", hint=hint)
        return f"{state}: {cause}" if cause else state or "starting"

    found = await _check("membership", look)
    return replace(found, needed=running)
