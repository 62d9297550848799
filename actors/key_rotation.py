"""Changing a node's own key without losing its name.

::

    syndb-node rotate-key     makes identity.next.key; nothing else happens yet
    the daemon's next start   joins with the new key; the former one signs that it hands its name over
    the hub accepts           identity.key becomes identity.previous.key, identity.next.key becomes identity.key

Between any two of these steps, and within the last one, the process may die: whoever starts next finds a key that the
hub knows, or one to which a known key hands over.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from actors.remote.identity import Identity
from syndb_common.errors import ConfigError
from syndb_common.settings import sync_folder

KEY = "identity.key"
NEXT_KEY = "identity.next.key"
PREVIOUS_KEY = "identity.previous.key"


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """The key a node uses, and the one that hands over to it as long as the hub has not accepted that."""

    identity: Identity
    predecessor: Identity | None = None


def load_keys(folder: Path) -> NodeKeys:
    """The keys of the node at ``folder``; its first one is made when there is none.

    Raises:
        ConfigError: a key cannot be read or written.
    """
    if not (folder / NEXT_KEY).exists():
        return NodeKeys(Identity.load_or_create(folder / KEY))
    return NodeKeys(Identity.load(folder / NEXT_KEY), Identity.load(folder / KEY))


def prepare_next(folder: Path) -> NodeKeys:
    """Make the next key, which the daemon uses from its next start on; one that is there already stays.

    Raises:
        ConfigError: a key cannot be read or written.
    """
    present = Identity.load_or_create(folder / KEY)
    return NodeKeys(Identity.load_or_create(folder / NEXT_KEY), present)


def finish(folder: Path) -> None:
    """The hub has accepted the next key: it is the node's key from now on. Nothing happens when it is already.

    Raises:
        ConfigError: a file cannot be written; the node goes on, and tries again when it joins next.
    """
    key, next_key, previous = folder / KEY, folder / NEXT_KEY, folder / PREVIOUS_KEY
    if not next_key.exists():
        return
    # The former key keeps its name until the new one takes it in one step.
    draft = previous.with_name(f".{previous.name}")
    try:
        draft.unlink(missing_ok=True)
        os.link(key, draft)
        draft.replace(previous)
        draft.unlink(missing_ok=True)  # where both were one file already, to replace one by the other does nothing
        sync_folder(folder)
        next_key.replace(key)
        sync_folder(folder)
    except OSError as error:
        raise ConfigError(f"the node's new key cannot take its place in {folder}: {error.strerror}") from error
