"""A node whose schema is not the hub's is said to be behind or ahead."""

from __future__ import annotations

import pytest

from syndb_hub.federation.view import schema_state
from tests.actors.federation_parts import record


@pytest.mark.parametrize(("version", "state"), [(6, "behind"), (7, "current"), (8, "ahead"), (0, "behind")])
def test_a_version_is_compared_with_the_hubs(version: int, state: str) -> None:
    assert schema_state(record(schema_version=version), 7) == state


def test_nothing_is_known_of_a_name_that_no_node_has() -> None:
    assert schema_state(record(peer_id=None, schema_version=0), 7) == "unknown"
