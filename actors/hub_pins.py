"""The hub keys a node obeys: the present one, and the one the present hub has announced to change to.

The configuration names the first key. From then on only the pinned hub itself can name its successor, and the node
changes over when a hub with that key has proved the federation password. There is no way back: a hub that was restored
with its former key is refused, until the operator pins it by ``syndb-node trust``.

The pins stand in a small file of the node, which a running daemon and the command both write.
"""

from __future__ import annotations

import re
from pathlib import Path

import structlog
import trio
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from syndb_common.errors import ConfigError
from syndb_common.settings import write_private

FILE = "hub-pins.json"
MAX_FILE_BYTES = 4096

log = structlog.get_logger(__name__)
_files = trio.CapacityLimiter(1)

_PEER_ID = r"^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$"


class Pins(BaseModel):
    """What is pinned.

    Attributes:
        configured: ``federation.hub_peer_id`` when the pins began; another one there makes them begin anew.
        current: the hub that is obeyed.
        successor: the key it has announced; empty for none.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    configured: str = Field(pattern=_PEER_ID)
    current: str = Field(pattern=_PEER_ID)
    successor: str = Field("", pattern=rf"{_PEER_ID}|^$")


class HubPins:
    """The pins of one node.

    Args:
        folder: the node's ``data_dir``.
        configured: ``federation.hub_peer_id``.

    Raises:
        ConfigError: the file cannot be read or is damaged. Nothing is guessed: somebody has to say whom to trust.
    """

    def __init__(self, folder: Path, configured: str) -> None:
        self._path = folder / FILE
        self._configured = configured
        self._stored = self._read()
        self._pins = self._stored

    @property
    def current(self) -> str:
        """PeerId of the hub that is obeyed."""
        return self._pins.current

    @property
    def successor(self) -> str:
        """PeerId that the present hub has announced as its next; empty for none."""
        return self._pins.successor

    @property
    def followed(self) -> tuple[str, ...]:
        """Whom to look for: the hub that is obeyed, and its successor if it has announced one."""
        return tuple(filter(None, (self.current, self.successor)))

    def trusts(self, peer_id: str) -> bool:
        """Whether a peer is the hub. Its successor is not, before it has proved the federation password."""
        return peer_id == self._pins.current

    async def reload(self, configured: str | None = None) -> None:
        """Read the file again, after ``syndb-node trust`` or a change of the configuration.

        Raises:
            ConfigError: it cannot be read; the pins stay as they were.
        """
        if configured is not None:
            self._configured = configured
        stored = await trio.to_thread.run_sync(self._read, limiter=_files)
        if stored != self._stored:  # else ours are newer if they differ: they could not be kept
            self._stored = self._pins = stored

    async def announced(self, by: str, successor: str) -> None:
        """The hub has said which key it will change to; empty for none. Only the present hub is listened to."""
        if by != self.current or successor in (self.successor, self.current):
            return
        if successor and not can_be_pinned(successor):
            log.warning("the hub announces what is no key of a hub", hub=by)
            return
        log.info("the hub announces another key", hub=by, successor=successor or "none")
        await self._change(by, Pins(configured=self._configured, current=by, successor=successor))

    async def changed_over(self, peer_id: str) -> None:
        """A hub with this key has proved the federation password: a successor is the hub from now on."""
        if peer_id != self.successor:
            return
        log.warning("the hub has changed its key as announced", former=self.current, hub=peer_id)
        await self._change(self.current, Pins(configured=self._configured, current=peer_id))

    async def _change(self, current: str, pins: Pins) -> None:
        """Pin others in memory and on the disk, unless the operator has just pinned somebody else there."""
        try:
            await self.reload()
            if self.current != current:
                return
            self._pins = pins
            await trio.to_thread.run_sync(write, self._path.parent, pins, limiter=_files)
            self._stored = pins
        except ConfigError as error:
            log.warning("pinned hubs not kept", cause=error.message, hint=error.hint)

    def _read(self) -> Pins:
        pins = read(self._path.parent)
        if pins is not None and pins.configured == self._configured:
            return pins
        if pins is not None:
            log.warning("another hub is configured: its pins begin anew", former=pins.current, hub=self._configured)
        return Pins(configured=self._configured, current=self._configured)


def can_be_pinned(text: str) -> bool:
    """Whether this has the form of a hub's PeerId."""
    return re.fullmatch(_PEER_ID, text) is not None


def read(folder: Path) -> Pins | None:
    """The pins of the node at ``folder``; None when it still follows its configuration.

    Raises:
        ConfigError: the file cannot be read or is damaged.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            return Pins.model_validate_json(file.read(MAX_FILE_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise ConfigError(
            f"cannot read the pinned hubs in {path}: {cause}",
            hint="Ask the hub's operator for the PeerId of the hub, and pin it: syndb-node trust PEER_ID.",
        ) from None


def write(folder: Path, pins: Pins) -> None:
    """Keep the pins of the node at ``folder``.

    Raises:
        ConfigError: the file cannot be written.
    """
    write_private(folder / FILE, pins.model_dump_json(indent=1))
