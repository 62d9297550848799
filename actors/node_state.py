"""How a node stands with its hub, for its operator: a small file that commands read, and metrics."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import structlog
import trio

from syndb_common.errors import ConfigError, SynDBError
from syndb_common.settings import write_private

FILE = "federation-state.json"

LOOKING = "looking for the hub"
REFUSED = "refused"
WAITING = "waiting for the operator's approval"
JOINED = "joined"
LEFT = "left"

log = structlog.get_logger(__name__)
_notes = trio.CapacityLimiter(1)


class NodeState:
    """What is noted, and whether the node is joined.

    Args:
        folder: the node's ``data_dir``.
        cluster: the node's name.
        peer_id: the node's PeerId.

    Attributes:
        joined: whether the node is.
        hub_schema_version: what the hub said last; None until it has.
    """

    def __init__(self, folder: Path, cluster: str, peer_id: str) -> None:
        self.joined = False
        self.hub_schema_version: int | None = None
        self._schema_version: int | None = None
        self._noted: dict[str, Any] = {}
        self._file = folder / FILE
        self._cluster = cluster
        self._peer_id = peer_id

    async def note(self, state: str, error: SynDBError | None = None, *, hub_peer_id: str, **facts: str) -> None:
        """Keep the state, and what is wrong if something is; a full disk costs the note and no more.

        Args:
            state: one of this module's.
            error: why it is no better one.
            hub_peer_id: the hub that is meant.
            facts: whatever else helps.
        """
        self.joined = state == JOINED
        self._noted = {
            "state": state,
            "cluster": self._cluster,
            "peer_id": self._peer_id,
            "hub_peer_id": hub_peer_id,
            "cause": error.message if error else "",
            "hint": error.hint if error else "",
            "at": time.time(),
            **facts,
        }
        await self._write()

    async def note_schema(self, version: int) -> None:
        """Keep which schema the node has, beside the state noted last."""
        if version != self._schema_version:
            self._schema_version = version
            await self._write()

    async def _write(self) -> None:
        versions = {"schema_version": self._schema_version, "hub_schema_version": self.hub_schema_version}
        try:
            await write_note(self._file, json.dumps({**self._noted, **versions}, indent=1))
        except ConfigError as unwritten:
            log.warning("state not written", cause=unwritten.message)


async def write_note(path: Path, content: str) -> None:
    """Put a file in place, whole or not at all, without holding up the loop."""
    await trio.to_thread.run_sync(write_private, path, content, limiter=_notes)
