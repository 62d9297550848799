"""Both ends of ontology sync, over real RPC in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.directory import Cluster, Directory
from actors.ontology_sync import OntologyFile, OntologyKeeper, OntologyPublisher, SyncTerms, Vocabulary
from actors.paging import PAGE_BYTES, in_pages
from actors.remote.frames import MAX_FRAME_BYTES
from actors.remote.memory import MemoryHost, MemoryNetwork, open_network
from actors.remote.policy import Policy, Trust
from actors.remote.rpc import RemoteRef, RpcClient
from actors.remote.rpc_server import RpcServer
from actors.runtime import ActorRef, ChildSpec, Supervisor, run_tree
from syndb_common.errors import Conflict, DataError, LimitExceeded, NotFound, SynDBError
from syndb_common.messages import OntologyReport, OntologySync, OntologyTerm
from tests.actors.federation_parts import cluster


def term(number: int, label: str = "region") -> OntologyTerm:
    return OntologyTerm(id=f"FBbt:{number:08}", vocabulary="brain_region", label=label, definition="d" * 300)


@dataclass
class Source:
    """The hub's terms."""

    revision: int
    terms: Sequence[OntologyTerm]
    reads: int = 0

    async def read(self) -> tuple[int, Sequence[OntologyTerm]]:
        self.reads += 1
        return self.revision, self.terms


@dataclass
class Federation:
    """A hub with terms, and one node, joined by a network in memory."""

    source: Source
    publisher: ActorRef
    node: Cluster
    file: OntologyFile
    network: MemoryNetwork
    hub_host: MemoryHost
    node_host: MemoryHost

    async def sync(self) -> OntologyReport:
        report: OntologyReport = await self.publisher.ask(SyncTerms(self.node.record.id), timeout=60)
        return report


@asynccontextmanager
async def federation(source: Source, path: Path) -> AsyncIterator[Federation]:
    async with open_network() as network, trio.open_nursery() as nursery:
        hub_host, node_host = network.host(), network.host()
        file = OntologyFile(path)
        keeper = ChildSpec("ontology_keeper", lambda: OntologyKeeper(file=file))
        node_tree = await nursery.start(run_tree, Supervisor("node", [keeper]))
        policy = Policy(lambda peer_id: Trust.HUB if peer_id == hub_host.peer_id else Trust.ANYONE)
        RpcServer(node_host, policy, {OntologySync: node_tree.ref("ontology_keeper")})
        directory = Directory()
        node = cluster("worm")
        directory.publish([node])
        client = RpcClient(hub_host)

        def peer(_: Cluster) -> ActorRef:
            return RemoteRef(client, node_host.peer_id, lambda: node_host.addresses, "worm")

        publisher = ChildSpec(
            "ontology_publisher", lambda: OntologyPublisher(terms=source, directory=directory, peer=peer)
        )
        hub_tree = await nursery.start(run_tree, Supervisor("hub", [publisher]))
        yield Federation(source, hub_tree.ref("ontology_publisher"), node, file, network, hub_host, node_host)
        nursery.cancel_scope.cancel()


async def test_terms_of_many_pages_arrive_whole_and_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "ontology.json"
    terms = tuple(map(term, range(6000)))
    assert len(in_pages(terms)) > 3
    async with federation(Source(41, terms), path) as parts:
        assert (await parts.sync()).revision == 41
        assert parts.file.revision == 41
    again = OntologyFile(path)
    assert await again.load() == Vocabulary(revision=41, terms=terms)
    assert again.revision == 41


async def test_other_terms_replace_them(tmp_path: Path) -> None:
    async with federation(Source(1, [term(1), term(2)]), tmp_path / "ontology.json") as parts:
        await parts.sync()
        parts.source.revision, parts.source.terms = 2, [term(2, "renamed")]
        await parts.sync()
        assert await parts.file.load() == Vocabulary(revision=2, terms=(term(2, "renamed"),))


async def test_terms_are_read_from_the_store_once_per_revision(tmp_path: Path) -> None:
    async with federation(Source(1, [term(1)]), tmp_path / "ontology.json") as parts:
        for _ in range(3):
            await parts.sync()
        assert parts.source.reads == 1


async def test_a_sync_cut_off_in_the_middle_leaves_the_old_terms_and_is_completed_later(tmp_path: Path) -> None:
    async with federation(Source(1, [term(1)]), tmp_path / "ontology.json") as parts:
        await parts.sync()
        parts.source.revision, parts.source.terms = 2, tuple(map(term, range(6000)))
        with trio.move_on_after(0.5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(parts.sync)
                while parts.source.reads < 2:  # noqa: ASYNC110 - the source is plain data
                    await trio.sleep(0.001)
                parts.network.partition(parts.node_host)
        assert parts.file.revision == 1
        parts.network.heal()
        assert (await parts.sync()).revision == 2
        assert len((await parts.file.load() or Vocabulary(revision=9, terms=())).terms) == 6000


async def test_lost_and_doubled_frames_cost_a_repetition_and_no_consistency(tmp_path: Path) -> None:
    terms = tuple(map(term, range(6000)))
    async with federation(Source(1, terms), tmp_path / "ontology.json") as parts:
        there = parts.network.link(parts.hub_host, parts.node_host)
        there.duplicate = 0.5
        while parts.file.revision != 1:
            try:
                await parts.sync()
            except SynDBError:
                there.duplicate = 0.0
        assert (await parts.file.load() or Vocabulary(revision=9, terms=())).terms == terms


async def test_a_hub_without_terms_sends_none(tmp_path: Path) -> None:
    async with federation(Source(0, []), tmp_path / "ontology.json") as parts:
        parts.source.revision = -1  # changed since it was last asked
        parts.source.read = _nothing  # type: ignore[method-assign]
        with pytest.raises(NotFound):
            await parts.sync()


async def _nothing() -> tuple[int, Sequence[OntologyTerm]]:
    return 0, []


@pytest.mark.parametrize("content", ["", "{", '{"revision": 0, "terms": []}', '{"terms": 3}', "\x00\xff"])
async def test_a_file_that_holds_something_else_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ontology.json"
    path.write_text(content)
    async with federation(Source(5, [term(1)]), path) as parts:
        assert parts.file.revision == 0
        assert (await parts.sync()).revision == 5
        assert json.loads(path.read_text())["revision"] == 5


@asynccontextmanager
async def keeping(path: Path) -> AsyncIterator[tuple[ActorRef, OntologyFile]]:
    file = OntologyFile(path)
    async with trio.open_nursery() as nursery:
        spec = ChildSpec("keeper", lambda: OntologyKeeper(file=file))
        tree = await nursery.start(run_tree, Supervisor("node", [spec]))
        yield tree.ref("keeper"), file
        nursery.cancel_scope.cancel()


def page(number: int, pages: int, *terms: OntologyTerm, revision: int = 1) -> OntologySync:
    return OntologySync(revision=revision, page=number, pages=pages, terms=terms or (term(number),))


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        pytest.param([page(1, 2)], Conflict, id="it does not begin with the first page"),
        pytest.param([page(0, 3), page(2, 3)], Conflict, id="a page is missing"),
        pytest.param([page(0, 3), page(1, 3, revision=2)], Conflict, id="a page of another revision"),
        pytest.param([page(0, 3), page(1, 4)], DataError, id="another number of pages"),
        pytest.param([page(0, 2), page(3, 2)], DataError, id="a page that there is not"),
        pytest.param([page(0, 2), page(1, 2, term(0, "other"))], DataError, id="a term twice"),
        pytest.param([page(0, 3), page(0, 3, term(0, "other"))], DataError, id="a page twice that differs"),
    ],
)
async def test_pages_that_do_not_fit_together_are_refused(
    tmp_path: Path, sent: list[OntologySync], error: type[SynDBError]
) -> None:
    async with keeping(tmp_path / "ontology.json") as (keeper, file):
        for message in sent[:-1]:
            assert (await keeper.ask(message, timeout=5)).revision == 0
        with pytest.raises(error):
            await keeper.ask(sent[-1], timeout=5)
        assert file.revision == 0


async def test_what_a_node_keeps_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.ontology_sync.MAX_TERMS", 10)
    async with keeping(tmp_path / "ontology.json") as (keeper, file):
        await keeper.ask(page(0, 3, *map(term, range(10))), timeout=5)
        with pytest.raises(LimitExceeded):
            await keeper.ask(page(1, 3, term(10)), timeout=5)
        with pytest.raises(Conflict):
            await keeper.ask(page(1, 3, term(10)), timeout=5)
        assert file.revision == 0


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 2)), max_size=25))
def test_whatever_comes_in_whatever_order_the_file_holds_one_revision_whole(
    tmp_path: Path, script: list[tuple[int, int]]
) -> None:
    """Pages of two revisions, three each, doubled, reordered and left out."""
    path = tmp_path / "ontology.json"
    path.unlink(missing_ok=True)

    def of(revision: int, number: int) -> OntologySync:
        return page(number, 3, term(number, f"of {revision}"), revision=revision)

    async def send() -> None:
        async with keeping(path) as (keeper, file):
            for revision, number in script:
                try:
                    report = await keeper.ask(of(revision, number), timeout=5)
                    assert report.revision == file.revision
                except Conflict:
                    pass
            stored = await OntologyFile(path).load()
            assert (stored.revision if stored else 0) == file.revision
            if stored is not None:
                assert stored.terms == tuple(of(stored.revision, number).terms[0] for number in range(3))
            for number in range(3):
                report = await keeper.ask(of(7, number), timeout=5)
            assert report.revision == 7

    trio.run(send)


@given(st.lists(st.integers(1, 4000), max_size=60), st.integers(100, 5000), st.integers(1, 7))
def test_pages_keep_every_item_in_order_and_their_size(sizes: list[int], size: int, most: int) -> None:
    items = [OntologyTerm(id=str(n), vocabulary="v", label="l", definition="x" * s) for n, s in enumerate(sizes)]
    pages = in_pages(items, size=size, most=most)
    assert [item for one in pages for item in one] == items
    assert all(pages) or not items
    for one in pages:
        assert len(one) <= most
        assert len(one) == 1 or sum(len(item.definition) for item in one) <= size


def test_a_page_fits_a_frame_with_room_to_spare() -> None:
    assert PAGE_BYTES <= MAX_FRAME_BYTES / 2
