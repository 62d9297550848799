"""Run the demonstration: ``make demo``, or ``make demo ONCE=1`` for scripts.

Environment: ``HUB_PORT`` (8080), ``DEMO_DIR`` (``demo-data`` in the checkout, else an absolute path).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import trio

from actors.remote.discovery.mdns import open_mdns
from actors.remote.identity import Identity
from demo.local import LocalFederation, local_federation
from demo.processes import DemoError, command, port_is_free, run
from demo.reference import read_all
from demo.tour import HOLDINGS, Tour, console, wait_until

IMPORTERS = {
    "cook-hermaphrodite": "c-elegans-herm",
    "cook-male": "c-elegans-male",
    "witvliet-development": "c-elegans-dev",
}
MULTICAST_SECONDS = 4.0
"""An announcement is heard within a second where multicast works at all."""


class Stop(BaseException):
    """SIGTERM came."""


def main() -> int:
    """Run it; the exit code is 0 when every answer was right."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the tour")
    once = parser.parse_args().once
    signal.signal(signal.SIGTERM, _stop)
    try:
        return demonstrate(once)
    except (DemoError, OSError, httpx.HTTPError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Stop):
        console.print("\nstopped; all daemons have ended")
        return 0 if not once else 130


def demonstrate(once: bool) -> int:
    """All of it: prepare, start, import, tour, wait."""
    port = _port(os.environ.get("HUB_PORT", "8080"))
    folder = Path(os.environ.get("DEMO_DIR", "demo-data")).absolute()
    if not port_is_free(port):
        raise DemoError(f"port {port} is in use; choose another one: HUB_PORT=8081 make demo")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").unlink(missing_ok=True)
    sources = folder / "sources"
    say("fetching the connectomes of cect 0.3.5 (13 MB, once)")
    for importer in IMPORTERS.values():
        run(command("syndb", "etl", importer, "download", "--output-dir", str(sources)), seconds=900)
    say("reading the files independently, to know the right answers")
    expected = read_all(sources)
    multicast = trio.run(multicast_works)
    if not multicast:
        say("there is no multicast here: the nodes get the hub's address in their configuration")
    with local_federation(folder, list(HOLDINGS), port=port, configure_addresses=not multicast) as federation:
        began = time.monotonic()
        first: list[float] = []
        tour = Tour(federation, expected)
        try:
            start(federation, multicast)
            load_data(federation, sources)
            wait_until(lambda: tour.healthy() == set(HOLDINGS), federation, "the catalogue", seconds=60)
            tour.run(lambda: first.append(time.monotonic() - began))
        finally:
            report(folder, tour, first[0] if first else None)
        return finish(tour, federation, once)


async def multicast_works() -> bool:
    """Whether a daemon announced here by mDNS is heard here; many sandboxes do not let multicast through."""
    peer_id = Identity.generate().peer_id
    async with open_mdns() as mdns, mdns.peers(role="hub") as findings:
        with trio.move_on_after(MULTICAST_SECONDS):
            await mdns.announce(peer_id, [f"/ip4/127.0.0.1/tcp/1/p2p/{peer_id}"], role="hub")
            async for found in findings:
                if found.peer_id == peer_id:
                    return True
    return False


def start(federation: LocalFederation, multicast: bool) -> None:
    """Start all daemons; the nodes find their way by themselves."""
    say("starting syndb-hub and three syndb-node processes")
    federation.start_hub()
    for name in HOLDINGS:
        federation.start_node(name)
    federation.wait_answering()
    way = "by mDNS" if multicast else "at its configured address"
    say(f"waiting for the nodes to find the hub {way}, prove the password and receive the schema")
    waiting = set(HOLDINGS)

    def all_healthy() -> bool:
        health = federation.health()
        for name in sorted(waiting):
            if health.get(name) == "healthy":
                say(f"{name} is healthy")
                waiting.remove(name)
        return not waiting

    federation.wait_for(all_healthy, "three healthy nodes", seconds=90)


def load_data(federation: LocalFederation, sources: Path) -> None:
    """Import into every node with the command a user would type."""

    def one(name: str) -> None:
        federation.import_data(name, IMPORTERS[name], sources)
        say(f"imported {len(HOLDINGS[name])} data set(s) into {name}")

    say("importing with `syndb etl <dataset> import`")
    with ThreadPoolExecutor(len(HOLDINGS)) as pool:
        list(pool.map(one, HOLDINGS))


def report(folder: Path, tour: Tour, seconds_to_first_answer: float | None) -> None:
    """Write ``report.json``, complete or not at all; also of a tour that was broken off."""
    content: dict[str, Any] = {
        "ok": tour.ok,
        "seconds_to_first_answer": seconds_to_first_answer and round(seconds_to_first_answer, 3),
        "steps": tour.steps,
    }
    draft = folder / "report.json.new"
    draft.write_text(json.dumps(content, indent=2))
    os.replace(draft, folder / "report.json")
    if seconds_to_first_answer is not None:
        console.print(f"\nfirst federated answer after {seconds_to_first_answer:.1f} s")
    console.print(f"report in {folder / 'report.json'}", highlight=False, soft_wrap=True)


def finish(tour: Tour, federation: LocalFederation, once: bool) -> int:
    """Say where the page is and wait for a signal, unless this runs once."""
    if once:
        return 0 if tour.ok else 1
    console.print(
        f"\nopen [bold]{federation.url}/[/bold] with the token\n  {federation.token}\nCtrl-C ends everything.",
        highlight=False,
    )
    with contextlib.suppress(KeyboardInterrupt, Stop):
        while True:
            federation.running.check()
            time.sleep(0.5)
    console.print("\nstopping")
    return 0 if tour.ok else 1


def say(text: str) -> None:
    """One line of progress."""
    print(f"demo: {text}", file=sys.stderr, flush=True)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise DemoError(f"HUB_PORT must be a port number, not {text!r}")
    return int(text)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stop


if __name__ == "__main__":
    sys.exit(main())
