"""A daemon of its own for tests with real processes: answers pings, never answers ``CancelQuery``, ends with its stdin.

Run as ``responder.py <key file> <multiaddr>...``; prints one line of JSON when it listens, and nothing else: nobody
reads on, and a daemon whose output nobody takes stops.
"""

import json
import logging
import sys
from pathlib import Path

import structlog
import trio

from actors.remote.host import Host
from actors.remote.identity import Identity
from actors.remote.policy import Policy, Trust
from actors.remote.rpc_server import RpcServer
from actors.runtime import Actor, ChildSpec, Delegated, Supervisor, handle, run_tree
from syndb_common.messages import CancelQuery, HealthPing, HealthReport


class Node(Actor):
    @handle
    async def ping(self, message: HealthPing) -> HealthReport:
        return HealthReport(
            schema_version=1,
            engine="ok",
            load=0,
            catalogue_revision=0,
            clock=message.clock,
            uptime_seconds=0,
            software="test",
        )

    @handle
    async def hang(self, message: CancelQuery) -> Delegated:
        return self.context.delegate(trio.sleep_forever)


async def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    host = Host(Identity.load_or_create(Path(sys.argv[1])), sys.argv[2:])
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        tree = await nursery.start(run_tree, Supervisor("responder", [ChildSpec("node", Node)]))
        node = tree.ref("node")
        RpcServer(host, Policy(lambda _peer_id: Trust.HUB), {HealthPing: node, CancelQuery: node})
        print(json.dumps({"peer_id": host.peer_id, "addresses": host.addresses}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


trio.run(main)
