"""A process that asks what is never answered, to be killed while it waits: ``asker.py <peer id> <multiaddr>``."""

import sys
from uuid import uuid4

import trio

from actors.remote.host import open_host
from actors.remote.identity import Identity
from actors.remote.rpc import RpcClient
from syndb_common.messages import CancelQuery, HealthPing


async def main() -> None:
    peer_id, address = sys.argv[1:]
    async with open_host(Identity.generate(), []) as host:
        client = RpcClient(host)
        await client.ask(peer_id, [address], HealthPing(clock=0), timeout=10)
        print("asking", flush=True)
        await client.ask(peer_id, [address], CancelQuery(query_id=uuid4()), timeout=60)


trio.run(main)
