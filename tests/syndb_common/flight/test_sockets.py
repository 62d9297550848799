"""Connections as the kernel knows them: found by their port, and ended without harm to any other."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from syndb_common.flight import sockets
from syndb_common.flight.sockets import Address, Connection, connected


class Pair:
    """A connection to a port of this process: the end that has accepted it, and the peer's."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.peer = socket.create_connection(listener.getsockname())
            self.accepted = listener.accept()[0]
        self.port = self.accepted.getsockname()[1]
        self.address: Address = self.peer.getsockname()
        self.peer.settimeout(10)

    @property
    def is_open(self) -> bool:
        """Whether bytes still reach the peer."""
        try:
            self.accepted.sendall(b"x")
        except OSError:
            return False
        return self.peer.recv(1) == b"x"


@pytest.fixture
def pair() -> Iterator[Pair]:
    found = Pair()
    with closing(found.peer), closing(found.accepted):
        yield found


@pytest.fixture
def other() -> Iterator[Pair]:
    found = Pair()
    with closing(found.peer), closing(found.accepted):
        yield found


def test_a_connection_is_found_by_its_port_and_ends(pair: Pair, other: Pair) -> None:
    pair.accepted.sendall(b"abc")
    assert pair.peer.recv(3) == b"abc"
    pair.peer.sendall(b"abcd")
    assert pair.accepted.recv(4) == b"abcd"
    found = connected(pair.port)
    assert list(found) == [pair.address]
    assert found[pair.address].moved == 7
    found[pair.address].cut()
    assert not pair.is_open
    assert other.is_open


def test_connections_are_found_without_a_listing_and_no_number_is_tried_in_vain(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[int] = []
    look = sockets._look

    def counted(number: int, port: int) -> Connection | None:
        looked_at.append(number)
        return look(number, port)

    monkeypatch.setattr(sockets, "_look", counted)
    high = os.dup2(pair.accepted.fileno(), max(map(int, os.listdir("/proc/self/fd"))) + 40)
    pair.accepted.close()
    try:

        def fail(folder: str) -> list[str]:
            raise FileNotFoundError(folder)

        monkeypatch.setattr(os, "listdir", fail)
        assert [found.descriptor for found in connected(pair.port).values()] == [high]
        for number in looked_at:
            os.fstat(number)  # it stands for something
    finally:
        os.close(high)


@pytest.mark.parametrize("when", ["before it is held", "once it is held"])
def test_another_connection_under_the_same_number_lives_on(
    pair: Pair, other: Pair, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = connected(pair.port)[pair.address]
    kept = os.dup(found.descriptor)
    remote = sockets._remote

    def give_away(connection: socket.socket) -> Address:
        address = remote(connection)
        os.dup2(other.accepted.fileno(), found.descriptor)
        return address

    if when == "before it is held":
        os.dup2(other.accepted.fileno(), found.descriptor)
    else:
        monkeypatch.setattr(sockets, "_remote", give_away)
    try:
        found.cut()
        assert other.is_open
    finally:
        os.close(kept)
