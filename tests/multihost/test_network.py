"""The networks that the other tests of this folder stand on behave as they say."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
import time

import pytest

from tests.multihost.network import Host, Network, NetworkError

PORT = 7007


def ping(sender: Host, receiver: Host, count: int = 1, *, wait: float = 0.5) -> list[float]:
    """Send datagrams; the seconds each was under way, of those that arrived within ``wait`` seconds of quiet."""
    with receiver.entered():
        there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender.entered():
        here = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found = []
    with there, here:
        there.bind((receiver.address, PORT))
        there.settimeout(wait)
        for _ in range(count):
            try:
                here.sendto(repr(time.monotonic()).encode(), (receiver.address, PORT))
            except OSError:
                continue  # no route: the sender's own cable is cut
        while True:
            try:
                sent = float(there.recv(100))
            except TimeoutError:
                return found
            found.append(time.monotonic() - sent)


def names() -> str:
    return subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout


def test_hosts_reach_each_other_and_the_machine_reaches_none(network: Network) -> None:
    one, other = network.host("one"), network.host("other")
    assert ping(one, other)
    assert ping(other, one)
    with socket.socket() as probe:
        probe.settimeout(0.3)
        assert probe.connect_ex((other.address, PORT)) != errno.ECONNREFUSED, "nobody but the host can refuse"


def test_a_cut_cable_carries_nothing_until_it_is_plugged_in(network: Network) -> None:
    one, other = network.host("one"), network.host("other")
    assert ping(one, other)
    other.unplug()
    assert not ping(one, other)
    assert not ping(other, one)
    other.plug()
    assert any(ping(one, other) for _ in range(10))


def test_a_bad_cable_loses_some_and_delays_all_each_way(network: Network) -> None:
    one, other = network.host("one"), network.host("other", loss=0.2, delay=0.1)
    assert any(ping(one, other) for _ in range(10)), "neither found the other's address"
    for sender, receiver in ((one, other), (other, one)):
        arrived = ping(sender, receiver, 200)
        assert 100 < len(arrived) < 190
        assert min(arrived) >= 0.1


def test_a_host_that_moves_has_the_new_address_only(network: Network) -> None:
    one, other = network.host("one"), network.host("other")
    other.move("10.77.0.99")
    assert ping(one, other)
    with other.entered(), pytest.raises(OSError, match="assign"):
        socket.create_server(("10.77.0.3", PORT))


def test_a_router_lets_its_hosts_out_and_nobody_in(network: Network) -> None:
    outside = network.host("outside")
    try:
        inside = network.host("inside", behind=network.router("router"))
    except NetworkError as error:
        pytest.skip(str(error))
    assert ping(inside, outside)
    assert not ping(outside, inside)


def test_nothing_stays_behind_after_a_failure() -> None:
    made = []

    def fail() -> None:
        with Network() as network:
            made.append(network.host("one", loss=0.1).name)
            assert made[0] in names()
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert made[0] not in names()


def test_what_a_killed_run_left_behind_is_removed_by_the_next() -> None:
    code = (
        "import os; from tests.multihost.network import Network; n = Network(); n.__enter__();"
        "print(n.host('one').name, flush=True); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert killed.returncode == -9
    assert killed.stdout.strip() in names()
    with Network():
        assert killed.stdout.strip() not in names()
