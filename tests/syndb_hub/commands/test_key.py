"""``syndb-hub key``: the next key is announced before it is used."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from typer.testing import Result

from actors.directory import NOWHERE, ClusterRecord, Standing
from actors.remote.identity import Identity
from syndb_hub import lock
from syndb_hub.keys import Announcement
from syndb_hub.settings import HubSettings
from syndb_hub.store.clusters import Clusters
from syndb_hub.store.once import once

Command = Callable[..., Result]


def enter(settings: HubSettings, number: int, standing: Standing = Standing.ACTIVE) -> UUID:
    record = ClusterRecord(
        id=UUID(int=number),
        name=f"lab-{number}",
        peer_id=f"12D3{number}",
        endpoints=NOWHERE,
        registered_at=datetime.now(UTC),
        standing=standing,
    )
    once(settings.data_dir / "hub.sqlite", lambda store: Clusters(store).save(record))
    return record.id


def tell(settings: HubSettings, cluster_id: UUID, peer_id: str) -> None:
    once(settings.data_dir / "hub.sqlite", lambda store: Announcement(store).note([cluster_id], peer_id))


def test_the_next_key_is_made_once_and_named(syndb_hub: Command, config: Path, settings: HubSettings) -> None:
    made = [syndb_hub("key", "next", "--config", str(config)).stdout.strip() for _ in range(2)]
    path = settings.data_dir / "identity.next.key"
    assert made == [Identity.load(path).peer_id] * 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert syndb_hub("id", "--config", str(config)).stdout.strip() != made[0]


def test_the_key_changes_when_every_active_node_has_been_told(
    syndb_hub: Command, config: Path, settings: HubSettings
) -> None:
    where = ("--config", str(config))
    before = syndb_hub("id", *where).stdout.strip()
    coming = syndb_hub("key", "next", *where).stdout.strip()
    first, second = enter(settings, 1), enter(settings, 2)
    enter(settings, 3, Standing.INACTIVE)
    tell(settings, first, coming)
    tell(settings, second, "an earlier next key")
    state = json.loads(syndb_hub("key", "show-state", *where, "--json").stdout)
    assert state == {"current": before, "next": coming, "not_told": ["lab-2"]}
    refused = syndb_hub("key", "change", *where)
    assert (refused.exit_code, syndb_hub("id", *where).stdout.strip()) == (6, before)
    assert "lab-2" in refused.stderr
    tell(settings, second, coming)
    changed = syndb_hub("key", "change", *where)
    assert (changed.exit_code, syndb_hub("id", *where).stdout.strip()) == (0, coming)
    assert Identity.load(settings.data_dir / "identity.previous.key").peer_id == before
    assert not (settings.data_dir / "identity.next.key").exists()
    assert "next key: none" in syndb_hub("key", "show-state", *where).stdout


def test_force_loses_the_nodes_that_were_not_told(syndb_hub: Command, config: Path, settings: HubSettings) -> None:
    coming = syndb_hub("key", "next", "--config", str(config)).stdout
    enter(settings, 1)
    assert syndb_hub("key", "change", "--config", str(config), "--force").exit_code == 0
    assert syndb_hub("id", "--config", str(config)).stdout == coming


def test_a_running_hub_keeps_its_key(syndb_hub: Command, config: Path, settings: HubSettings) -> None:
    syndb_hub("key", "next", "--config", str(config))
    before = syndb_hub("id", "--config", str(config)).stdout
    with lock.hold(settings.data_dir):
        done = syndb_hub("key", "change", "--config", str(config), "--force")
    assert (done.exit_code, syndb_hub("id", "--config", str(config)).stdout) == (6, before)


def test_there_is_nothing_to_change_to_without_a_next_key(syndb_hub: Command, config: Path) -> None:
    assert syndb_hub("key", "change", "--config", str(config)).exit_code == 5
