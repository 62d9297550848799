"""The federation's terms as the hub keeps them."""

from __future__ import annotations

import pytest
import trio

from syndb_common.errors import DataError, LimitExceeded
from syndb_common.messages import OntologyTerm
from syndb_hub.store.ontology import StoredTerms

EYE = OntologyTerm(id="FBbt:2", vocabulary="brain_region", label="medulla", synonyms=("ME",), parents=("FBbt:1",))
LOBE = OntologyTerm(id="FBbt:1", vocabulary="brain_region", label="optic lobe")


async def test_a_hub_without_terms_has_revision_0(store):
    terms = StoredTerms(store)
    await terms.load()
    assert terms.revision == 0
    assert await terms.read() == (0, [])


async def test_terms_come_back_as_they_were_put_and_replace_those_before(store):
    terms = StoredTerms(store)
    first = await terms.replace([EYE, LOBE])
    assert await terms.read() == (first, [LOBE, EYE])
    second = await terms.replace([EYE])
    assert await terms.read() == (second, [EYE])
    assert second != first
    assert terms.revision == second


async def test_the_same_terms_have_the_same_revision_also_after_a_restart(store):
    revision = await StoredTerms(store).replace([EYE, LOBE])
    restarted = StoredTerms(store)
    await restarted.load()
    assert restarted.revision == revision == await restarted.replace([LOBE, EYE])
    assert await restarted.replace([]) == 0


async def test_what_another_process_replaced_is_noticed(store, nursery, monkeypatch):
    monkeypatch.setattr("syndb_hub.store.ontology.NOTICE_SECONDS", 0.02)
    terms = StoredTerms(store)
    await nursery.start(terms.run)
    revision = await StoredTerms(store).replace([EYE, LOBE])
    with trio.fail_after(10):
        while terms.revision != revision:  # noqa: ASYNC110 - what others wrote sends no event
            await trio.sleep(0.01)
    assert (await terms.read())[1] == [LOBE, EYE]
    nursery.cancel_scope.cancel()


async def test_terms_that_no_node_would_take_are_refused_and_change_nothing(store, monkeypatch):
    terms = StoredTerms(store)
    revision = await terms.replace([LOBE])
    with pytest.raises(DataError, match="FBbt:2"):
        await terms.replace([EYE, EYE])
    monkeypatch.setattr("syndb_hub.store.ontology.MAX_TERMS", 1)
    with pytest.raises(LimitExceeded):
        await terms.replace([EYE, LOBE])
    monkeypatch.setattr("syndb_hub.store.ontology.MAX_BYTES", 100)
    with pytest.raises(LimitExceeded, match="bytes"):
        await terms.replace([LOBE])
    assert await terms.read() == (revision, [LOBE])
