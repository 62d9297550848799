"""What happens when a process at either end is killed: real processes, SIGKILL, both transports."""

import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from actors.remote.rpc import RemoteRef, RpcClient
from syndb_common.errors import DeadlineExceeded, PeerUnavailable
from syndb_common.messages import CancelQuery, HealthPing

pytestmark = pytest.mark.slow

PING = HealthPing(clock=0)


async def test_a_client_killed_while_it_waits_leaves_the_server_answering(hosts, transport, start_responder):
    server = start_responder(transport)
    asker = subprocess.Popen(  # noqa: ASYNC220 - starting it takes no time
        [sys.executable, str(Path(__file__).with_name("asker.py")), server.peer_id, server.addresses[0]],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert asker.stdout.readline() == "asking\n"
    finally:
        asker.kill()
        asker.communicate()
    ref = RemoteRef(RpcClient(await hosts()), server.peer_id, lambda: server.addresses, "node")
    assert await ref.ask(PING, timeout=5)


async def test_a_server_killed_and_restarted_is_lost_and_found_again(hosts, transport, start_responder):
    server = start_responder(transport)
    ref = RemoteRef(RpcClient(await hosts()), server.peer_id, lambda: server.addresses, "node")
    assert await ref.ask(PING, timeout=5)
    server.kill()
    with pytest.raises((PeerUnavailable, DeadlineExceeded)):
        await ref.ask(PING, timeout=1)
    with pytest.raises((PeerUnavailable, DeadlineExceeded)):
        await ref.ask(PING, timeout=1)
    restarted = start_responder(transport, server.port)
    assert restarted.addresses == server.addresses
    assert await ref.ask(PING, timeout=5)


async def test_a_restart_between_two_asks_is_survived(hosts, transport, start_responder):
    server = start_responder(transport)
    ref = RemoteRef(RpcClient(await hosts()), server.peer_id, lambda: server.addresses, "node")
    assert await ref.ask(PING, timeout=5)
    server.kill()
    start_responder(transport, server.port)
    try:
        await ref.ask(PING, timeout=1)
    except (PeerUnavailable, DeadlineExceeded):
        assert await ref.ask(PING, timeout=5)


async def test_who_waits_for_long_learns_of_the_loss_from_a_failed_ping(hosts, transport, start_responder):
    server = start_responder(transport)
    ref = RemoteRef(RpcClient(await hosts()), server.peer_id, lambda: server.addresses, "node")
    assert await ref.ask(PING, timeout=5)
    outcome = []

    async def wait_for_an_answer():
        with pytest.raises(PeerUnavailable):
            await ref.ask(CancelQuery(query_id=uuid4()), timeout=60)
        outcome.append("told")

    # The message is idempotent: it is sent again for a while before its asker is told.
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_an_answer)
            await trio.sleep(0.3)
            server.kill()
            for _ in range(2):
                with pytest.raises((PeerUnavailable, DeadlineExceeded)):
                    await ref.ask(PING, timeout=1)
    assert outcome == ["told"]


async def test_a_peer_that_was_killed_is_missed_within_seconds(hosts, transport, start_responder):
    server, client = start_responder(transport), await hosts()
    await client.connect(server.peer_id, server.addresses, timeout=5)
    with trio.fail_after(15):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.lost, server.peer_id)
            await trio.sleep(0.5)
            server.kill()
    assert not client.is_connected(server.peer_id)
    start_responder(transport, server.port)
    await client.connect(server.peer_id, server.addresses, timeout=5)
