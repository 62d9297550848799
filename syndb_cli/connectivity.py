"""``syndb federation test``: what a node needs, tried for real, in the order in which it is needed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import trio

from actors.remote.discovery.hub import find_hub
from actors.remote.discovery.mdns import open_mdns
from actors.remote.discovery.static import configured
from actors.remote.host import open_host
from actors.remote.identity import Identity
from actors.remote.proof import derive_key
from syndb_cli.etl.target import node_target
from syndb_cli.output import was_interrupted
from syndb_common.daemon import first_error
from syndb_common.errors import ConfigError, SynDBError
from syndb_common.flight.uploader import probe
from syndb_common.node_settings import NodeSettings

FIND_SECONDS = 10.0
"""mDNS answers within three seconds on a LAN; the rest is for a slow line."""


@dataclass(frozen=True, slots=True)
class Check:
    """One test: whether it passed, how long it took, and otherwise why and what to do."""

    name: str
    passed: bool
    milliseconds: float
    cause: str = ""


async def checks(settings: NodeSettings) -> list[Check]:
    """Configuration, hub, engine; all are tried, whatever the first ones say."""
    return [
        await _check("configuration", lambda: _configuration(settings)),
        await _check("hub", lambda: _hub(settings)),
        await _check("engine", lambda: _engine(settings)),
    ]


async def _check(name: str, attempt: Callable[[], Awaitable[None]]) -> Check:
    began = time.perf_counter()
    cause = ""
    try:
        await attempt()
    except (SynDBError, BaseExceptionGroup) as raised:
        error = first_error(raised)
        if error is None or was_interrupted(raised):
            raise
        cause = f"{error.message} {error.hint}".strip()
    return Check(name, not cause, (time.perf_counter() - began) * 1000, cause)


async def _configuration(settings: NodeSettings) -> None:
    await derive_key(settings.federation.password.get_secret_value(), settings.federation.hub_peer_id)
    if not settings.data_dir.is_dir():
        raise ConfigError(f"{settings.data_dir} does not exist", hint="Start the node once: syndb-node run")


async def _hub(settings: NodeSettings) -> None:
    """A throw-away identity connects to the pinned hub, which proves its PeerId; nothing is sent."""
    federation = settings.federation
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(open_host(Identity.generate(), ["/ip4/0.0.0.0/udp/0/quic-v1"]))
        mdns = await stack.enter_async_context(open_mdns()) if federation.enable_mdns else None
        sources = [configured(federation.hub_addresses)] + ([] if mdns is None else [mdns.heard("hub")])
        await find_hub(host, [federation.hub_peer_id], sources, timeout=FIND_SECONDS)


async def _engine(settings: NodeSettings) -> None:
    """The running node's Flight server shows the certificate of this folder and takes the owner's token."""
    target = await trio.to_thread.run_sync(node_target, settings)
    await trio.to_thread.run_sync(probe, target, abandon_on_cancel=True)
