"""The thread that looks at all connections of a Flight server and closes those that cost it more than they may."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from syndb_common.flight.guests import Guests
from syndb_common.flight.sockets import connected
from syndb_common.flight.streams import Streams

LOOK_SECONDS: Final = 0.1
"""Between two looks, in which a stranger may send what it likes. One takes about a thousandth of a second."""

_log = logging.getLogger(__name__)


class Watch:
    """Closes the connections of clients that stand still or show no credential, whatever happens.

    Args:
        streams, guests: say which.
        port: of the server.
    """

    def __init__(self, streams: Streams, guests: Guests, port: int) -> None:
        self._streams = streams
        self._guests = guests
        self._port = port

    def start(self) -> None:
        """Watch from now on, for as long as the process lives."""
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def _run(self) -> None:
        failing = False
        while True:
            time.sleep(LOOK_SECONDS)
            try:
                self._look()
                failing = False
            except Exception:  # nothing that a peer brings about may end this thread
                if not failing:
                    _log.exception("the connections of the Flight server cannot be looked at")
                failing = True

    def _look(self) -> None:
        found = connected(self._port)
        unwanted = self._guests.unwanted(found, awaited=self._streams.awaited())
        for address in self._streams.still(found) | unwanted:
            found[address].cut()
