"""Networks of several hosts on this machine: each host is a network namespace, a switch joins them.

::

    with Network() as network:
        hub, node = network.host("hub"), network.host("node")
        subprocess.run(hub.words(["ping", "-c", "1", node.address]))

The switch has a namespace too: nothing of it is seen from the machine itself, or from another network. Names carry
the process id, and what a killed run left behind is removed by the next one.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from demo.processes import Place, end_with_parent

SUBNET = "10.77.0"
_NAME = re.compile(r"syndb-(\d+)-")
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)

N = TypeVar("N", bound="Namespace")


class NetworkError(Exception):
    """A network cannot be made here; the message says why."""


class Namespace(Place):
    """A network namespace: a host, a switch or a router.

    Attributes:
        name: as ``ip netns`` shows it.
        address: its IPv4 address; empty for a switch.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = ""

    def words(self, words: list[str]) -> list[str]:
        """A command line that runs ``words`` inside."""
        return ["ip", "netns", "exec", self.name, *words]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets this thread opens in the block belong to the namespace."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.name}") as here:
            _enter(here.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def ip(self, *words: str) -> None:
        """``ip`` inside the namespace."""
        ip("-n", self.name, *words)


class Host(Namespace):
    """A host with one cable, ``eth0``, to the switch."""

    def unplug(self) -> None:
        """Cut the cable: from now on nothing arrives, and nobody is told."""
        self.ip("link", "set", "eth0", "down")

    def plug(self) -> None:
        """Connect the cable again."""
        self.ip("link", "set", "eth0", "up")

    def move(self, address: str) -> None:
        """Have another address in place of the present one."""
        self.ip("address", "flush", "dev", "eth0", "scope", "global")
        self.ip("address", "add", f"{address}/24", "dev", "eth0")
        self.address = address


class Router(Host):
    """A host with a network of its own inside, whose hosts it hides behind its own address.

    They reach who is outside; nobody outside reaches them, unless they asked.
    """

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name)
        self.inside = f"10.78.{number}"

    def translate(self) -> None:
        """Begin to forward and to masquerade."""
        self.ip("link", "add", "inside", "type", "bridge")
        self.ip("link", "set", "inside", "up")
        self.ip("address", "add", f"{self.inside}.1/24", "dev", "inside")
        rules = "add table ip nat; add chain ip nat out { type nat hook postrouting priority 100; }; "
        rules += "add rule ip nat out oifname eth0 masquerade"
        for words in (["nft", rules], ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]):
            done = subprocess.run(self.words(words), capture_output=True, text=True, timeout=20, check=False)
            if done.returncode:
                raise NetworkError(f"addresses cannot be translated here (package nftables): {done.stderr.strip()}")


class Network:
    """A switch and its hosts; everything is gone when the block is left."""

    def __init__(self) -> None:
        self._prefix = f"syndb-{os.getpid()}-{secrets.token_hex(2)}-"
        self._made: list[Namespace] = []
        self._cables: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        _sweep()
        try:
            self.switch = self._make(Namespace(self._prefix + "switch"))
            self.switch.ip("link", "add", "bridge", "type", "bridge")
            self.switch.ip("link", "set", "bridge", "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def host(self, name: str, *, behind: Router | None = None, loss: float = 0.0, delay: float = 0.0) -> Host:
        """A host with a cable to the switch, or into the network behind a router.

        Args:
            loss: share of the packets that the cable loses, each way.
            delay: seconds that a packet is under way, each way.
        """
        host = self._make(Host(self._prefix + name))
        if behind is None:
            self._connect(host, self.switch, "bridge", SUBNET, loss, delay)
        else:
            self._connect(host, behind, "inside", behind.inside, loss, delay)
            host.ip("route", "add", "default", "via", f"{behind.inside}.1")
        return host

    def router(self, name: str) -> Router:
        """A router with a cable to the switch.

        Raises:
            NetworkError: nftables is missing.
        """
        router = self._make(Router(self._prefix + name, len(self._made)))
        self._connect(router, self.switch, "bridge", SUBNET, 0.0, 0.0)
        router.translate()
        return router

    def _connect(self, host: Host, to: Namespace, bridge: str, subnet: str, loss: float, delay: float) -> None:
        port = f"port{len(self._made)}"
        if loss or delay:
            self._lay_bad_cable(host, to, port, loss, delay)
        else:
            to.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        to.ip("link", "set", port, "master", bridge, "up")
        host.plug()
        host.move(f"{subnet}.{len(self._made)}")

    def _lay_bad_cable(self, host: Host, to: Namespace, port: str, loss: float, delay: float) -> None:
        """A process between two virtual devices: kernels often lack netem, and this needs no module."""
        words = [sys.executable, "-m", "tests.multihost.cable", to.name, port, host.name, "eth0"]
        cable = subprocess.Popen(
            [*words, str(loss), str(delay)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            preexec_fn=end_with_parent,
        )
        self._cables.append(cable)
        assert cable.stdout is not None
        if cable.stdout.readline() != b"laid\n":
            raise NetworkError("there is no /dev/net/tun here")

    def _make(self, namespace: N) -> N:
        ip("netns", "add", namespace.name)
        self._made.append(namespace)
        namespace.ip("link", "set", "lo", "up")
        return namespace

    def _remove(self) -> None:
        for cable in self._cables:
            cable.kill()
            cable.wait()
            assert cable.stdout is not None
            cable.stdout.close()
        for namespace in reversed(self._made):
            ip("netns", "delete", namespace.name)


def ip(*words: str) -> None:
    """The command ``ip``.

    Raises:
        NetworkError: it refused, for instance for lack of rights.
    """
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        raise NetworkError("the command ip is not installed (package iproute2)") from None
    if done.returncode:
        raise NetworkError(f"`ip {' '.join(words)}`: {done.stderr.strip()}")


def _sweep() -> None:
    """Remove what runs that were killed left behind."""
    for entry in Path("/run/netns").glob("syndb-*"):
        found = _NAME.match(entry.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            subprocess.run(["ip", "netns", "delete", entry.name], capture_output=True, timeout=20, check=False)


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")
