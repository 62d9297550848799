"""Whatever a node says that its messages may hold, and whatever was seen of it: the registry goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ValidationError
from structlog.testing import capture_logs

from actors.directory import Health
from actors.health import HealthObservations, HealthObserved
from actors.registry_messages import CatalogueRead
from actors.runtime import ActorCrashed
from syndb_common.errors import SynDBError
from syndb_common.messages import CatalogAnnouncement, JoinRequest, LeaveFederation, Message
from syndb_hub.store.clusters import Clusters
from tests.actors.federation_parts import published
from tests.actors.hub_parts import Attempt, Hub, StartHub

NUMBERS = (
    -(2**63),
    -1,
    0,
    2**31 - 1,
    2**31,
    2**53,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    1e308,
    float("inf"),
    float("nan"),
)
TEXTS = ("", "\x00", "x" * 2000, "𝕏" * 300, "'; DROP TABLE clusters; --", "\ud800")
EXTREMES = (*NUMBERS, *TEXTS)


def fields(model: BaseModel, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a message a number or a text stands."""
    yield from _within(model.model_dump(), path)


def _within(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _within(item, (*path, key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _within(item, (*path, number))
    elif not isinstance(value, bytes | UUID):
        yield path


def put(value: Any, path: tuple[Any, ...], extreme: Any) -> Any:
    """The same with ``extreme`` at one place."""
    if not path:
        return extreme
    if isinstance(value, dict):
        return {**value, path[0]: put(value[path[0]], path[1:], extreme)}
    return [put(item, path[1:], extreme) if number == path[0] else item for number, item in enumerate(value)]


def extremes(message: Message) -> Iterator[Message]:
    """The message with each extreme value at each place, as far as the wire lets it pass."""
    for path in fields(message):
        for extreme in EXTREMES:
            with suppress(ValidationError):
                yield type(message).model_validate(put(message.model_dump(), path, extreme))


async def lives(hub: Hub, *, crashes: Any) -> None:
    """The registry has not crashed, and admits the next node."""
    await Attempt(name="next-lab", peer_id="12D3Next").join(hub)
    assert list(crashes) == []


@pytest.fixture
def crashes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> list[ActorCrashed]:
    found: list[ActorCrashed] = []
    publish = hub.tree.events.publish

    def noted(event: Any) -> None:
        if isinstance(event, ActorCrashed):
            found.append(event)
        publish(event)

    monkeypatch.setattr(hub.tree.events, "publish", noted)
    return found


async def test_of_joining(hub: Hub, crashes: list[ActorCrashed]) -> None:
    for request in extremes(JoinRequest(cluster_name="worm-lab", node_nonce=b"n" * 32, key_id="0" * 16)):
        with suppress(SynDBError):
            await hub.ask(request)
    node = Attempt()
    facts = {"institution": "i", "description": "d", "contact_email": "c", "software": "s"}
    example = node.registration(await node.challenge(hub), **facts)
    for registration in extremes(example):
        challenge = await node.challenge(hub)
        proof = node.registration(challenge)
        passed = registration.model_copy(update={"join_id": proof.join_id, "node_proof": proof.node_proof})
        with suppress(SynDBError):
            await hub.ask(passed)
    await lives(hub, crashes=crashes)
    assert "next-lab" in await hub.records(), "what was kept can be read"


async def test_of_announcing_and_leaving(hub: Hub, crashes: list[ActorCrashed]) -> None:
    joined = await Attempt().join(hub)
    version = published("worm", synapses=1)
    whole = CatalogAnnouncement(revision=1, versions=(version,), sharing={version.dataset_id: "rows"})
    for announcement in extremes(whole):
        with suppress(SynDBError):
            await hub.ask(announcement)
        with suppress(SynDBError):
            await hub.do(CatalogueRead(joined.cluster_id, announcement))  # type: ignore[arg-type]
    for farewell in extremes(LeaveFederation(reason="maintenance")):
        with suppress(SynDBError):
            await hub.ask(farewell)
    await lives(hub, crashes=crashes)


@pytest.mark.parametrize("field", ["schema_version", "ontology_revision", "failures", "flaps", "cause"])
async def test_of_what_was_seen(hub: Hub, crashes: list[ActorCrashed], field: str) -> None:
    joined = await Attempt().join(hub)
    good = HealthObserved(joined.cluster_id, Health.HEALTHY, "", 0, 0.01, schema_version=1)
    for extreme in TEXTS if field == "cause" else NUMBERS:
        for health in (Health.DEGRADED, Health.HEALTHY):
            await hub.do(HealthObservations((replace(good, health=health, **{field: extreme}),)))
    await lives(hub, crashes=crashes)


async def test_an_observation_that_cannot_be_kept_costs_no_other(hub: Hub, start_hub: StartHub) -> None:
    worm = await Attempt().join(hub)
    fly = await Attempt(name="fly-lab", peer_id="12D3Fly").join(hub)
    poison = HealthObserved(worm.cluster_id, Health.HEALTHY, "\ud800", 0, 0.01, schema_version=2**63)
    good = HealthObserved(fly.cluster_id, Health.HEALTHY, "", 0, 0.01, schema_version=5)
    with capture_logs() as logged:
        await hub.do(HealthObservations((poison, good)))
    assert [each["log_level"] for each in logged if "not kept" in each["event"]] == ["warning", "warning"]
    assert len(await Clusters(hub.store).transitions(fly.cluster_id)) == 1
    assert (await start_hub()).node("fly-lab").record.schema_version == 5
