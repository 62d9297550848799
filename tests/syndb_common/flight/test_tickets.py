"""Tickets: for one reader, one range, once, for half a minute; everything else is refused in the same words."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pyarrow as pa
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from syndb_common.engine.interface import Limits, Offer, Scan
from syndb_common.engine.local import LocalEngine
from syndb_common.engine.offers import MAX_OF_ONE_READER, OFFER_SECONDS, Offers
from syndb_common.errors import DeadlineExceeded, NotFound, TooManyRequests
from syndb_common.flight.client import fetch

SCHEMA = pa.schema([("n", pa.int64())])


@dataclass
class _Range:
    """A range of a result that counts what is done with it."""

    number: int
    gone: bool = False
    ended: int = 0
    schema: pa.Schema = field(default=SCHEMA)

    def read(self) -> Any:
        yield pa.record_batch([pa.array([self.number])], schema=SCHEMA)

    def scan(self) -> Scan:
        return Scan()

    def end(self) -> None:
        self.ended += 1


def _reader(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


@dataclass(frozen=True)
class _Held:
    ticket: bytes
    source: _Range
    reader: str
    since: float


class _Tickets(RuleBasedStateMachine):
    """Whatever is made, presented and waited for: a ticket gives its reader its range once, in time."""

    held = Bundle("held")
    used = Bundle("used")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.number = 0
        self.offers = Offers(cast("Any", None), lambda: self.now)
        self.claimed: list[_Range] = []

    @rule(target=held, reader=st.sampled_from("ab"))
    def offer(self, reader: str) -> _Held:
        self.number += 1
        source = _Range(self.number)
        try:
            (ticket,) = self.offers.make_all([source], _reader(reader))
        except TooManyRequests:
            ticket = b"none was given"
        return _Held(ticket, source, reader, self.now)

    @rule(seconds=st.sampled_from([1.0, 10.0, OFFER_SECONDS]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(of=held)
    def delete(self, of: _Held) -> None:
        of.source.gone = True

    @rule(of=held, secret=st.sampled_from(["", "c"]))
    def present_as_another(self, of: _Held, secret: str) -> None:
        self._refused(of.ticket, _reader(secret) if secret else b"")

    @rule(of=held, at=st.integers(0, 31))
    def forge(self, of: _Held, at: int) -> None:
        forged = bytearray(of.ticket.ljust(32))
        forged[at] ^= 1
        self._refused(bytes(forged), _reader(of.reader))

    @rule(target=used, of=consumes(held))
    def present(self, of: _Held) -> _Held:
        good = self.now < of.since + OFFER_SECONDS and not of.source.gone and of.ticket != b"none was given"
        if good:
            result = self.offers.redeem(of.ticket, _reader(of.reader))
            assert [batch.column(0)[0].as_py() for batch in result.batches] == [of.source.number]
            result.close()
            self.claimed.append(of.source)
        else:
            self._refused(of.ticket, _reader(of.reader))
        return of

    @rule(of=used)
    def present_again(self, of: _Held) -> None:
        self._refused(of.ticket, _reader(of.reader))

    def _refused(self, ticket: bytes, reader: bytes) -> None:
        with pytest.raises(NotFound, match="unknown, was used already, is void or is not yours"):
            self.offers.redeem(ticket, reader)

    @invariant()
    def every_claimed_range_was_given_back_once(self) -> None:
        assert all(source.ended == 1 for source in self.claimed)


_Tickets.TestCase.settings = hypothesis_settings(deadline=None, max_examples=50)
TestTickets = _Tickets.TestCase


def test_a_reader_who_left_before_the_first_row_holds_nothing() -> None:
    offers = Offers(cast("Any", None))
    source = _Range(1)
    (ticket,) = offers.make_all([source], _reader("a"))
    offers.redeem(ticket, _reader("a")).close()
    assert source.ended == 1
    offers.finish(0)
    assert not offers._reading


class _NeverComes(_Range):
    """A delivery that is waited for in vain."""

    @property
    def schema(self) -> pa.Schema:  # type: ignore[override]
        raise DeadlineExceeded("the node did not deliver its part in time")

    @schema.setter
    def schema(self, value: pa.Schema) -> None:
        """A source has one, whatever becomes of it."""


def test_a_part_that_never_comes_holds_nothing_and_no_stop() -> None:
    offers = Offers(cast("Any", None))
    source = _NeverComes(1)
    (ticket,) = offers.make_all([source], _reader("a"))
    result = offers.redeem(ticket, _reader("a"))
    with pytest.raises(DeadlineExceeded):
        result.source.schema  # noqa: B018 - it is waited for
    result.close()
    assert source.ended == 1
    offers.finish(0)
    assert not offers._reading


def test_one_reader_cannot_take_the_tickets_of_others() -> None:
    offers = Offers(cast("Any", None))
    offers.make_all([_Range(n) for n in range(MAX_OF_ONE_READER)], _reader("greedy"))
    with pytest.raises(TooManyRequests):
        offers.make_all([_Range(0)], _reader("greedy"))
    assert offers.make_all([_Range(0)], _reader("modest"))


async def test_a_result_of_the_engine_is_for_the_reader_it_was_made_for(engine: LocalEngine) -> None:
    sql = "SELECT number FROM numbers(100000)"
    offer = await engine.answer(sql, limits=Limits(), reader=_reader("the hub's secret"))
    assert isinstance(offer, Offer)
    refusals = set()
    for thief, ticket in (("", offer.ticket), ("another", offer.ticket), ("the hub's secret", bytes(32))):
        with pytest.raises(NotFound) as caught:
            await fetch(replace(offer, ticket=ticket), secret=thief)
        refusals.add((caught.value.message, caught.value.hint))
    assert (await fetch(offer, secret="the hub's secret")).num_rows == 100_000
    with pytest.raises(NotFound) as caught:
        await fetch(offer, secret="the hub's secret")
    refusals.add((caught.value.message, caught.value.hint))
    assert len(refusals) == 1
