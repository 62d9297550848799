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
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from demo.processes import Daemon, Daemons, DemoError, command, daemons, free_ports, port_is_free, run
from demo.reference import read_all
from demo.tour import HOLDINGS, KILLED, Tour, console, wait_until

INSTITUTIONS = {
    "cook-hermaphrodite": "Hermaphrodite laboratory",
    "cook-male": "Male laboratory",
    "witvliet-development": "Development laboratory",
}
IMPORTERS = {
    "cook-hermaphrodite": "c-elegans-herm",
    "cook-male": "c-elegans-male",
    "witvliet-development": "c-elegans-dev",
}


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
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Stop):
        console.print("\nstopped; all daemons have ended")
        return 0 if not once else 130


def demonstrate(once: bool) -> int:
    """All of it: prepare, start, import, tour, wait."""
    port = int(os.environ.get("HUB_PORT", "8080"))
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
    url = f"http://127.0.0.1:{port}"
    configure(folder, port)
    with daemons() as running:
        began = time.monotonic()
        first: list[float] = []
        start_hub(running, folder, url)
        nodes = {name: start_node(running, folder, name) for name in HOLDINGS}
        tour = Tour(url, folder / "token", expected)
        say("waiting for the nodes to find the hub, prove the password and receive the schema")
        wait_until(lambda: joined(tour) == set(HOLDINGS), running, "three nodes to join", seconds=90)
        load_data(folder, sources)
        wait_until(lambda: tour.healthy() == set(HOLDINGS), running, "the catalogue", seconds=60)
        tour.run(running, nodes[KILLED], lambda: first.append(time.monotonic() - began))
        report(folder, tour, first[0])
        return finish(tour, url, folder, running, once)


def configure(folder: Path, port: int) -> None:
    """Write the four configuration files with the commands an operator uses."""
    hub = folder / "hub.toml"
    ports = free_ports(1 + 2 * len(HOLDINGS))
    listen = _listen(ports.pop())
    if not hub.exists():
        run(command("syndb-hub", "init", "--config", str(hub), "--data-dir", str(folder / "hub")))
    # Ports are chosen anew at every run; everything else of an earlier run is kept.
    environment = {"SYNDB_HTTP_PORT": str(port), "FEDERATION_LISTEN_ADDR": ",".join(listen)}
    (folder / "environment.json").write_text(json.dumps({"hub": environment}))
    hub_peer_id = run(command("syndb-hub", "id", "--config", str(hub))).strip()
    password = tomllib.loads(hub.read_text())["federation"]["password"]
    token = folder / "token"
    made = run(
        command("syndb-hub", "token", "create", "--config", str(hub), "--name", "demo", "--days", "7", "--replace")
    )
    token.touch(mode=0o600)
    token.write_text(made.strip() + "\n")
    for name, institution in INSTITUTIONS.items():
        words = ["federation", "init", "--config", str(folder / f"{name}.toml"), "--force"]
        words += ["--cluster-name", name, "--institution", institution, "--share", "rows"]
        words += ["--hub-peer-id", hub_peer_id, "--data-dir", str(folder / name)]
        words += ["--flight-port", str(ports.pop())]
        for address in listen:
            words += ["--hub-multiaddr", address]
        for address in _listen(ports.pop()):
            words += ["--listen-addr", address]
        run(command("syndb", *words), environment={"SYNDB_FEDERATION_PASSWORD": password})


def _listen(port: int) -> list[str]:
    return [f"/ip4/127.0.0.1/udp/{port}/quic-v1", f"/ip4/127.0.0.1/tcp/{port}"]


def start_hub(running: Daemons, folder: Path, url: str) -> Daemon:
    """Start the hub and wait until it answers."""
    say("starting syndb-hub")
    environment = json.loads((folder / "environment.json").read_text())["hub"]
    os.environ.update(environment)
    hub = running.start(
        "syndb-hub", command("syndb-hub", "run", "--config", str(folder / "hub.toml")), folder / "hub.log"
    )
    for variable in environment:
        del os.environ[variable]
    wait_until(lambda: httpx.get(f"{url}/v1/federation/ping", timeout=2).is_success, running, "the hub", seconds=60)
    return hub


def start_node(running: Daemons, folder: Path, name: str) -> Daemon:
    """Start one node; it finds its way by itself."""
    say(f"starting syndb-node {name}")
    return running.start(
        name, command("syndb-node", "run", "--config", str(folder / f"{name}.toml")), folder / f"{name}.log"
    )


def joined(tour: Tour) -> set[str]:
    """Names of the nodes that are healthy, whatever they hold."""
    headers = {"Authorization": f"Bearer {tour.token_file.read_text().strip()}"}
    found = httpx.get(f"{tour.url}/v1/federation/clusters", headers=headers, timeout=10).json()
    return {node["name"] for node in found if node["health"] == "healthy"}


def load_data(folder: Path, sources: Path) -> None:
    """Import into every node with the command a user would type."""

    def one(name: str) -> None:
        words = ["etl", IMPORTERS[name], "import", "--data-dir", str(sources), "--config", str(folder / f"{name}.toml")]
        run(command("syndb", *words))
        say(f"imported {len(HOLDINGS[name])} data sets into {name}")

    say("importing with `syndb etl <dataset> import`")
    with ThreadPoolExecutor(len(HOLDINGS)) as pool:
        list(pool.map(one, HOLDINGS))


def report(folder: Path, tour: Tour, seconds_to_first_answer: float) -> None:
    """Write ``report.json``, complete or not at all."""
    content: dict[str, Any] = {
        "ok": tour.ok,
        "seconds_to_first_answer": round(seconds_to_first_answer, 3),
        "steps": tour.steps,
    }
    draft = folder / "report.json.new"
    draft.write_text(json.dumps(content, indent=2))
    os.replace(draft, folder / "report.json")
    console.print(f"\nfirst federated answer after {seconds_to_first_answer:.1f} s; report in {folder / 'report.json'}")


def finish(tour: Tour, url: str, folder: Path, running: Daemons, once: bool) -> int:
    """Say where the page is and wait for a signal, unless this runs once."""
    if once:
        return 0 if tour.ok else 1
    token = (folder / "token").read_text().strip()
    console.print(f"\nopen [bold]{url}/[/bold] with the token\n  {token}\nCtrl-C ends everything.", highlight=False)
    with contextlib.suppress(KeyboardInterrupt, Stop):
        while True:
            running.check()
            time.sleep(0.5)
    console.print("\nstopping")
    return 0 if tour.ok else 1


def say(text: str) -> None:
    """One line of progress."""
    print(f"demo: {text}", file=sys.stderr, flush=True)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stop


if __name__ == "__main__":
    sys.exit(main())
