"""A federation of real processes: one hub, some nodes, each with its folder, key and configuration.

The demonstration, the tests with real processes and the benchmarks run on it. Folders may exist from an earlier
run: keys and data are kept, ports are chosen anew.
"""

from __future__ import annotations

import contextlib
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from actors.remote.identity import Identity
from actors.remote.proof import generate_secret
from demo.processes import Daemon, Daemons, DemoError, Place, command, daemons, free_ports, run
from syndb_common.errors import NotFound
from syndb_common.node_settings import NodeSettings
from syndb_common.settings import render
from syndb_hub.auth.commands import create_token, revoke_token
from syndb_hub.auth.principal import Right
from syndb_hub.settings import HubSettings

TOKEN_DAYS = 7
POLL_SECONDS = 0.05


class LocalFederation:
    """One hub and its nodes. Made by :func:`local_federation`, which ends all processes.

    Args:
        folder: where everything lives.
        nodes: names of the nodes.
        running: the daemons of this federation.
        port: HTTP port of the hub; a free one by default.
        configure_addresses: whether nodes are told the hub's address or have to find it by mDNS.
        hub: further values of ``hub.toml``, sections as mappings.
        node: further values of every ``node.toml``, likewise.
        places: where daemons run, by name, the hub as ``hub``; this machine unless said otherwise.
    """

    def __init__(
        self,
        folder: Path,
        nodes: Sequence[str],
        running: Daemons,
        *,
        port: int | None = None,
        configure_addresses: bool = True,
        hub: Mapping[str, Any] | None = None,
        node: Mapping[str, Any] | None = None,
        places: Mapping[str, Place] | None = None,
    ) -> None:
        self.folder = folder
        self.running = running
        self.places = defaultdict(Place, places or {})
        ports = iter(free_ports(3 + 2 * len(nodes)))
        self.http_port = port or next(ports)
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.hub_listen = listen(next(ports), self.places["hub"].address)
        self.hub_flight_port = next(ports)
        self._configured = self.hub_listen if configure_addresses else []
        self.hub_config = folder / "hub.toml"
        self.password = self._known_password() or generate_secret()
        self.hub_peer_id = self._write_hub(hub or {})
        self.token_file = folder / "token"
        self.token = self._make_token()
        self.daemons: dict[str, Daemon] = {}
        for name in nodes:
            self.write_node(name, next(ports), next(ports), node or {})

    def write_node(self, name: str, libp2p_port: int, flight_port: int, values: Mapping[str, Any]) -> Path:
        """Write the configuration of one node and return its path."""
        address = self.places[name].address
        content: dict[str, Any] = {
            "data_dir": str(self.folder / name),
            "cluster": {"name": name},
            "federation": {
                "password": self.password,
                "hub_peer_id": self.hub_peer_id,
                "hub_multiaddrs": self._configured,
                "listen": listen(libp2p_port, address),
            },
            "flight": {"host": address, "port": flight_port, "advertise": f"{address}:{flight_port}"},
            "policy": {"share": "rows"},
        }
        return _write(self.config(name), render(NodeSettings, _merged(content, values)))

    def config(self, name: str) -> Path:
        """Path of a node's configuration."""
        return self.folder / f"{name}.toml"

    def start_hub(self) -> Daemon:
        """Start the hub and return at once."""
        return self._start("hub", command("syndb-hub", "run", "--config", str(self.hub_config)))

    def start_node(self, name: str, **environment: str) -> Daemon:
        """Start a node and return at once."""
        return self._start(name, command("syndb-node", "run", "--config", str(self.config(name))), environment)

    def _start(self, name: str, words: list[str], environment: Mapping[str, str] | None = None) -> Daemon:
        if name in self.daemons:
            self.daemons[name].start()
        else:
            words = self.places[name].words(words)
            self.daemons[name] = self.running.start(name, words, self.folder / f"{name}.log", environment)
        return self.daemons[name]

    def import_data(self, name: str, importer: str, data_dir: Path, *options: str) -> None:
        """Import a data set into a node with the command a user types."""
        words = ["etl", importer, "import", "--data-dir", str(data_dir), "--config", str(self.config(name)), *options]
        run(self.places[name].words(command("syndb", *words)))

    def get(self, path: str, **options: Any) -> Any:
        """GET from the hub's API."""
        return self.request("GET", path, **options).json()

    def post(self, path: str, body: object, **options: Any) -> Any:
        """POST JSON to the hub's API."""
        return self.request("POST", path, json=body, **options).json()

    def request(self, method: str, path: str, *, timeout: float = 60, **options: Any) -> httpx.Response:
        """Any request; an error status raises with the hub's own words."""
        headers = {"Authorization": f"Bearer {self.token}"}
        with self.places["hub"].entered():
            response = httpx.request(method, self.url + path, headers=headers, timeout=timeout, **options)
        if response.is_error:
            raise DemoError(f"{method} {path}: {response.status_code} {response.text}")
        return response

    def query(self, text: str, *, wait: float = 50, **body: Any) -> dict[str, Any]:
        """Run a query to its end: the job's fields and, when it completed, ``columns`` and ``rows``."""
        job: dict[str, Any] = self.post("/v1/syql/exec", {"query": text, "wait": wait, **body})
        if job["status"] == "completed":
            job.update(self.get(f"/v1/jobs/{job['job_id']}/result", params={"format": "json"}))
        return job

    def health(self) -> dict[str, str]:
        """Health of every node by name; empty while the hub does not answer."""
        try:
            return {node["name"]: node["health"] for node in self.get("/v1/federation/clusters", timeout=10)}
        except (httpx.HTTPError, DemoError):
            return {}

    def wait_healthy(self, names: Iterable[str], *, seconds: float = 60) -> None:
        """Wait until these nodes are healthy."""
        wanted = set(names)

        def all_healthy() -> bool:
            return wanted <= {name for name, health in self.health().items() if health == "healthy"}

        self.wait_for(all_healthy, f"{', '.join(sorted(wanted))} to be healthy", seconds=seconds)

    def wait_datasets(self, counts: Mapping[str, int], *, seconds: float = 60) -> None:
        """Wait until the hub knows so many data sets of each node."""

        def known() -> bool:
            found = {node["name"]: len(node["datasets"]) for node in self.get("/v1/federation/clusters")}
            return all(found.get(name) == count for name, count in counts.items())

        self.wait_for(known, "the catalogue", seconds=seconds)

    def wait_answering(self, *, seconds: float = 60) -> None:
        """Wait until the hub answers HTTP."""

        def answers() -> bool:
            with contextlib.suppress(httpx.HTTPError), self.places["hub"].entered():
                return httpx.get(f"{self.url}/v1/federation/ping", timeout=2).is_success
            return False

        self.wait_for(answers, "the hub", seconds=seconds)

    def wait_for(self, done: Callable[[], bool], what: str, *, seconds: float) -> None:
        """Poll until something is so; fails when a daemon ends by itself meanwhile or the time is over."""
        until = time.monotonic() + seconds
        while not done():
            self.running.check()
            if time.monotonic() > until:
                raise DemoError(f"waited {seconds:g} s for {what}; the logs are in {self.folder}")
            time.sleep(POLL_SECONDS)

    def _known_password(self) -> str:
        if not self.hub_config.exists():
            return ""
        return str(tomllib.loads(self.hub_config.read_text())["federation"]["password"])

    def _write_hub(self, values: Mapping[str, Any]) -> str:
        folder = self.folder / "hub"
        content: dict[str, Any] = {
            "data_dir": str(folder),
            "http": {"port": self.http_port},
            "flight": self._hub_flight(),
            "federation": {"password": self.password, "listen": self.hub_listen},
        }
        _write(self.hub_config, render(HubSettings, _merged(content, values)))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Identity.load_or_create(folder / "identity.key").peer_id

    def _hub_flight(self) -> dict[str, Any]:
        address = self.places["hub"].address
        return {"host": address, "port": self.hub_flight_port, "advertise": f"{address}:{self.hub_flight_port}"}

    def _make_token(self) -> str:
        path = self.folder / "hub" / "hub.sqlite"
        with contextlib.suppress(NotFound):
            revoke_token(path, "local")
        token = create_token(path, "local", [Right.EVERYTHING], timedelta(days=TOKEN_DAYS)).text
        _write(self.token_file, token + "\n")
        return token


@contextlib.contextmanager
def local_federation(folder: Path, nodes: Sequence[str], **options: Any) -> Iterator[LocalFederation]:
    """A federation whose processes end with the block; options as for :class:`LocalFederation`."""
    folder.mkdir(parents=True, exist_ok=True)
    with daemons() as running:
        yield LocalFederation(folder, nodes, running, **options)


def listen(port: int, address: str = Place.address) -> list[str]:
    """Multiaddrs on a port, QUIC first."""
    return [f"/ip4/{address}/udp/{port}/quic-v1", f"/ip4/{address}/tcp/{port}"]


def _merged(content: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in values.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, Mapping) else value
    return content


def _write(path: Path, content: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(content, encoding="utf-8")
    return path
