"""Which member is to have which record, and how little work it is to know."""

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.remote.discovery.kademlia import closest
from actors.remote.discovery.keepers import RETRY_SECONDS, Keepers, Look
from actors.remote.discovery.records import HUB, cluster, sign
from actors.remote.identity import Identity

US = Identity.generate()
MEMBERS = [Identity.generate() for _ in range(40)]
NAMES = frozenset(member.peer_id for member in MEMBERS)
OWN = sign(US, HUB, [], sequence=1)
RECORDS = (OWN, *(sign(member, cluster(f"n{n}"), [], sequence=1) for n, member in enumerate(MEMBERS)))


def look(*, connected=NAMES, contacts=None, records=RECORDS, own=OWN):
    return Look(records, own, frozenset(connected if contacts is None else contacts), frozenset(connected))


def tell(keepers, work):
    for peer_id, records in work.items():
        for record in records:
            keepers.told(peer_id, record)
        keepers.reached(peer_id)


def wanted(record, connected):
    """Who is to have a record, worked out from scratch."""
    others = connected - {record.peer_id, US.peer_id}
    return set(others) if record is OWN else set(closest(record.key.encode(), others))


@given(st.lists(st.sets(st.sampled_from(sorted(NAMES))), min_size=1, max_size=6))
@settings(max_examples=30)
def test_whoever_comes_and_goes_the_closest_to_a_key_have_its_record(situations):
    async def main():
        keepers, told = Keepers(US.peer_id, hands_on=True), {record.key: set() for record in RECORDS}
        for connected in map(frozenset, situations):
            work = await keepers.untold(look(connected=connected, contacts=NAMES))
            named = set(closest(OWN.key.encode(), NAMES))
            for record in RECORDS:
                due = {peer_id for peer_id, records in work.items() if record in records}
                should = wanted(record, connected) | (named if record is OWN else set())
                assert due == should - told[record.key]
                told[record.key] |= due
            tell(keepers, work)

    trio.run(main)


async def is_settled(keepers, seen):
    """Whether there is nothing to tell, and nothing to work out either: the answer comes without a pause."""
    try:
        with trio.testing.assert_no_checkpoints():
            return not await keepers.untold(seen)
    except AssertionError:
        return False


async def test_when_nothing_has_changed_there_is_nothing_to_work_out():
    keepers = Keepers(US.peer_id, hands_on=True)
    tell(keepers, await keepers.untold(look()))
    assert not await keepers.untold(look())
    assert await is_settled(keepers, look())
    assert not await is_settled(keepers, look(connected=NAMES - {min(NAMES)}, contacts=NAMES))


async def test_a_member_that_failed_and_is_to_be_told_nothing_any_more_leaves_nothing_to_work_out(autojump_clock):
    keepers, one = Keepers(US.peer_id, hands_on=True), MEMBERS[0]
    alone = {"connected": [one.peer_id], "own": None}
    theirs = sign(MEMBERS[1], cluster("n1"), [], sequence=1)
    assert await keepers.untold(look(records=(theirs,), **alone)) == {one.peer_id: [theirs]}
    keepers.failed(one.peer_id)
    nothing = look(records=(sign(one, cluster("n0"), [], sequence=1),), **alone)
    await trio.sleep(2 * RETRY_SECONDS)
    assert not await keepers.untold(nothing)
    assert await is_settled(keepers, nothing)


async def test_only_what_is_new_is_told():
    keepers = Keepers(US.peer_id, hands_on=True)
    tell(keepers, await keepers.untold(look()))
    newer = sign(MEMBERS[0], cluster("n0"), [], sequence=2)
    work = await keepers.untold(look(records=(OWN, newer, *RECORDS[2:])))
    assert work == {peer_id: [newer] for peer_id in wanted(newer, NAMES)}


async def test_what_has_been_worked_out_but_not_told_is_still_to_be_told():
    keepers = Keepers(US.peer_id, hands_on=True)
    first = await keepers.untold(look())
    assert await keepers.untold(look()) == first


async def test_a_member_that_cannot_be_told_is_left_alone_for_longer_each_time(autojump_clock):
    one = MEMBERS[0].peer_id
    keepers, alone = Keepers(US.peer_id, hands_on=False), look(connected=[], contacts=[one])
    for pause in (RETRY_SECONDS, 2 * RETRY_SECONDS, 4 * RETRY_SECONDS):
        assert await keepers.untold(alone) == {one: [OWN]}
        keepers.failed(one)
        await trio.sleep(pause - 1)
        assert not await keepers.untold(alone)
        await trio.sleep(2)
    tell(keepers, await keepers.untold(alone))
    assert not await keepers.untold(alone)


async def test_a_node_tells_its_own_record_and_leaves_those_of_others_to_the_hub():
    work = await Keepers(US.peer_id, hands_on=False).untold(look())
    assert work == {peer_id: [OWN] for peer_id in NAMES}


async def test_others_have_their_turn_between_any_two_records():
    turns = 0

    async def another():
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(another)
        await Keepers(US.peer_id, hands_on=True).untold(look())
        nursery.cancel_scope.cancel()
    assert turns >= len(RECORDS) - 1
