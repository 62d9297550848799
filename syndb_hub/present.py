"""What may change while the hub runs: its passwords, the key it will change to, and how much it logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import structlog
import trio

from actors.admission import Keyring
from syndb_common.daemon import set_log_level
from syndb_common.errors import SynDBError
from syndb_hub.keys import Keys
from syndb_hub.passwords import keyring
from syndb_hub.settings import HubSettings

log = structlog.get_logger(__name__)

CHANGEABLE = frozenset({"log_level", "federation.password", "federation.previous_password"})
UNCHANGED = "Under systemd the service has a copy of the configuration from its start: restart it after a change."
_files = trio.CapacityLimiter(1)


class Present:
    """The present state of it. Parts that need something of it ask each time.

    Args:
        settings: those the hub was started with.
        peer_id: the hub's.
        reread: reads the configuration again; None where there is no file.
    """

    def __init__(self, settings: HubSettings, peer_id: str, reread: Callable[[], HubSettings] | None) -> None:
        self._settings = settings
        self._peer_id = peer_id
        self._reread = reread
        self._keys = Keys(settings.data_dir)
        self._keyring: Keyring | None = None
        self._next_peer_id = ""

    def keyring(self) -> Keyring:
        """The keys behind the passwords that are accepted."""
        assert self._keyring is not None  # load() comes first
        return self._keyring

    def next_peer_id(self) -> str:
        """The PeerId the hub will have; empty while no change is planned."""
        return self._next_peer_id

    async def load(self) -> None:
        """Stretch the passwords and read the next key; before anything else.

        Raises:
            ConfigError: a password cannot be used, or the next key cannot be read.
        """
        await self._take(self._settings)

    async def reload(self) -> None:
        """Take what has changed. A configuration that is wrong changes nothing; the log says so."""
        before, next_before = self._settings, self._next_peer_id
        try:
            if self._reread is not None:
                await self._take(await trio.to_thread.run_sync(self._reread, limiter=_files))
        except SynDBError as error:
            log.error("configuration not taken; the former one stays", cause=error.message, hint=error.hint)  # noqa: TRY400
            return
        set_log_level(self._settings.log_level)
        changed = set(_differences(before.model_dump(), self._settings.model_dump()))
        log.info("configuration read again", changed=sorted(changed & CHANGEABLE))
        if changed - CHANGEABLE:
            log.warning("these keys count from the next start on", keys=sorted(changed - CHANGEABLE))
        if self._next_peer_id != next_before:
            log.info("the next key is announced" if self._next_peer_id else "no next key", peer_id=self._next_peer_id)
        elif not changed:
            log.warning("nothing has changed", hint=UNCHANGED)

    async def _take(self, settings: HubSettings) -> None:
        found = await keyring(settings.federation, self._peer_id)
        coming = await trio.to_thread.run_sync(self._keys.load_next, limiter=_files)
        self._keyring, self._settings = found, settings
        self._next_peer_id = coming.peer_id if coming is not None else ""


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in after.items():
        if isinstance(value, dict):
            yield from _differences(before[key], value, f"{above}{key}.")
        elif value != before[key]:
            yield f"{above}{key}"
