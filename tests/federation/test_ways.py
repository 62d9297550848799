"""Large results come by the way that is open, and by another when that closes, with nobody doing anything."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from demo.local import LocalFederation
from demo.processes import free_ports
from tests.federation.processes import eventually

Start = Callable[..., LocalFederation]
ROWS = "SELECT cid, pre_id, post_id, synapse_count FROM synapses SCOPE remote"
CHANGE_SECONDS = 60.0
"""Four times what the hub takes to notice."""


@contextmanager
def open_port(port: int, target: int) -> Iterator[None]:
    """Leads from one port to another, as the rule of a router does."""
    with ExitStack() as stack, socket.create_server(("127.0.0.1", port)) as listener:
        lock = threading.Lock()

        def keep(connection: socket.socket) -> socket.socket:
            with lock:
                stack.callback(cut, connection)
            return connection

        def accept() -> None:
            with suppress(OSError):
                while True:
                    near = keep(listener.accept()[0])
                    far = keep(socket.create_connection(("127.0.0.1", target)))
                    for ends in ((near, far), (far, near)):
                        threading.Thread(target=copy, args=ends, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


def copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(65536):
            sink.sendall(content)
    cut(sink)


def cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def way(federation: LocalFederation) -> str:
    [cluster] = federation.get("/v1/federation/clusters")
    return str(cluster["delivery"])


def reached(federation: LocalFederation) -> bool:
    """Whether the hub finds the node's Flight server where it is registered, by the certificate that is registered."""
    [cluster] = federation.get("/v1/federation/clusters")
    return bool(federation.post(f"/v1/federation/clusters/{cluster['id']}/test/connectivity", {})["passed"])


def test_results_come_by_the_way_that_is_open_and_by_the_certificate_that_the_node_has_now(
    start_federation: Start, real_files: Path
) -> None:
    outside, inside = free_ports(2)
    flight = {"port": inside, "advertise": f"127.0.0.1:{outside}"}
    with open_port(outside, inside):
        federation = start_federation("worm", node={"flight": flight})
        federation.import_data("worm", "c-elegans-dev", real_files, "--stage", "1")
        federation.wait_datasets({"worm": 1})
        assert eventually(lambda: way(federation) == "pull", seconds=CHANGE_SECONDS)
        fetched = federation.query(ROWS)
    [outcome] = fetched["provenance"]["nodes"]
    assert outcome["bytes"] > 64 * 1024
    assert outcome["scanned_rows"] >= len(fetched["rows"])
    # The hub has not noticed yet: the same query comes by the other way.
    unnoticed = federation.query(ROWS)
    assert sorted(unnoticed["rows"]) == sorted(fetched["rows"])
    assert unnoticed["provenance"]["complete"]
    assert unnoticed["provenance"]["nodes"][0]["scanned_rows"] == outcome["scanned_rows"]
    assert "part asked for by another way" in (federation.folder / "hub.log").read_text()
    assert eventually(lambda: way(federation) == "push", seconds=CHANGE_SECONDS)
    delivered = federation.query(ROWS)
    assert delivered["provenance"]["complete"]
    assert sorted(delivered["rows"]) == sorted(fetched["rows"])
    with open_port(outside, inside):
        assert eventually(lambda: way(federation) == "pull", seconds=CHANGE_SECONDS)
        federation.daemons["worm"].kill()
        for file in (federation.folder / "worm" / "engine" / "tls").iterdir():
            file.unlink()
        federation.start_node("worm")
        assert eventually(lambda: reached(federation) and way(federation) == "pull", seconds=CHANGE_SECONDS)
        assert sorted(federation.query(ROWS)["rows"]) == sorted(fetched["rows"])
