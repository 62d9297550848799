"""A bad cable between two network namespaces: it loses some packets and delays all others.

``python -m tests.multihost.cable NAMESPACE DEVICE NAMESPACE DEVICE LOSS DELAY`` makes one TAP device in each namespace
and carries Ethernet frames between them, until it is killed. Each direction loses the same share, by chance with a
fixed seed, and keeps the order of packets.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque

from tests.multihost.network import Namespace

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
MAX_FRAME = 65_536
MAX_UNDER_WAY = 20_000
"""Frames in one direction; further ones are lost, as in any queue."""


def main() -> None:
    """Make the devices, say ``laid``, carry frames."""
    namespace, device, other_namespace, other_device, loss, delay = sys.argv[1:]
    ends = (_tap(Namespace(namespace), device), _tap(Namespace(other_namespace), other_device))
    print("laid", flush=True)
    carry(ends, float(loss), float(delay))


def carry(ends: tuple[int, int], loss: float, delay: float) -> None:
    """Carry frames between two devices for ever."""
    chance = random.Random(1)
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    under_way: deque[tuple[float, int, bytes]] = deque()
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        for end in select.select(ends, (), (), wait)[0]:
            frame = os.read(end, MAX_FRAME)
            if chance.random() >= loss and len(under_way) < MAX_UNDER_WAY:
                under_way.append((time.monotonic() + delay, other[end], frame))
        while under_way and under_way[0][0] <= time.monotonic():
            _, end, frame = under_way.popleft()
            _deliver(end, frame)


def _deliver(end: int, frame: bytes) -> None:
    try:
        os.write(end, frame)
    except OSError:
        return  # the device is down: nobody listens at that end


def _tap(namespace: Namespace, device: str) -> int:
    with namespace.entered():
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TAP | _IFF_NO_PI))
    return tap


if __name__ == "__main__":
    main()
