"""What hub and nodes know of each other soon after something changed: terms, and what a node holds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demo.local import LocalFederation
from demo.processes import command, run
from syndb_common.tables.schema import CURRENT
from tests.federation.processes import eventually

Start = Callable[..., LocalFederation]
SECONDS = 10
"""How old a picture may be."""


def import_terms(federation: LocalFederation, *names: str) -> set[str]:
    """Import brain regions at the hub while it runs; their ids."""
    path = federation.folder / "terms.csv"
    path.write_text("name,vocabulary\n" + "".join(f"{name},brain_region\n" for name in names))
    run(command("syndb-hub", "ontology", "import", "--config", str(federation.hub_config), str(path)))
    return {f"brain_region:{name}" for name in names}


def terms_of(federation: LocalFederation, node: str) -> set[str]:
    """Ids of the terms in the node's own file."""
    try:
        content: dict[str, Any] = json.loads((federation.folder / node / "ontology.json").read_text())
    except FileNotFoundError:
        return set()
    return {term["id"] for term in content["terms"]}


def test_terms_imported_at_the_hub_are_at_the_nodes_soon_also_at_one_that_was_away(start_federation: Start) -> None:
    federation = start_federation("a", "b")
    first = import_terms(federation, "medulla", "lobula")
    for node in "ab":
        assert eventually(lambda node=node: terms_of(federation, node) == first, seconds=SECONDS)
    federation.daemons["b"].kill()
    second = import_terms(federation, "medulla", "calyx")
    assert eventually(lambda: terms_of(federation, "a") == second, seconds=SECONDS)
    assert terms_of(federation, "b") == first
    federation.start_node("b")
    federation.wait_healthy(["b"])
    assert eventually(lambda: terms_of(federation, "b") == second, seconds=SECONDS)


def test_status_says_which_schema_the_node_has_once_the_hub_has_sent_it(start_federation: Start) -> None:
    federation = start_federation("a")

    def shown() -> tuple[int, int, str]:
        words = command("syndb", "federation", "status", "--json", "--config", str(federation.config("a")))
        status = json.loads(run(words))
        return status["schema_version"], status["hub_schema_version"], status["schema"]

    wanted = (CURRENT, CURRENT, "as the hub's")
    assert eventually(lambda: shown() == wanted, seconds=3 * SECONDS), shown()


def known(federation: LocalFederation) -> int:
    """How many data sets the hub says the node has."""
    [node] = federation.get("/v1/federation/clusters")
    return len(node["datasets"])


def test_what_a_node_imports_the_hub_knows_soon(start_federation: Start, real_files: Path) -> None:
    federation = start_federation("a")
    federation.import_data("a", "c-elegans-dev", real_files, "--stage", "1")
    assert eventually(lambda: known(federation) == 1, seconds=SECONDS)


def test_a_hub_that_pings_rarely_hears_it_from_the_node(start_federation: Start, real_files: Path) -> None:
    federation = start_federation("a", hub={"federation": {"ping_interval_seconds": 60.0}})
    # The pings that follow joining are over: from here on the next one is most of a minute away.
    time.sleep(5)
    for stage in ("1", "2"):
        federation.import_data("a", "c-elegans-dev", real_files, "--stage", stage)
        assert eventually(lambda stage=stage: known(federation) == int(stage), seconds=SECONDS)
