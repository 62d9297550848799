import trio
import trio.lowlevel

from actors.remote.replay import RecentAnswers


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def execute(recent: RecentAnswers, request_id: bytes, answer: bytes = b"answer") -> None:
    with recent.executing(request_id) as execution:
        execution.answer = answer


def test_an_answer_is_found_by_the_id_of_its_request():
    recent = RecentAnswers()
    assert recent.find(b"1") is None
    execute(recent, b"1", b"first")
    execute(recent, b"2", b"second")
    assert recent.find(b"1").answer == b"first"
    assert recent.find(b"2").answer == b"second"


def test_a_request_is_found_while_it_is_executed():
    recent = RecentAnswers()
    with recent.executing(b"1") as execution:
        assert recent.find(b"1") is execution
        assert not execution.done
        execution.answer = b"answer"
    assert execution.done


def test_an_execution_cut_off_leaves_no_trace():
    recent = RecentAnswers()
    with recent.executing(b"1"):
        pass
    assert recent.find(b"1") is None


def test_an_answer_that_need_not_be_kept_leaves_no_trace():
    recent = RecentAnswers()
    with recent.executing(b"1") as execution:
        execution.answer, execution.kept = b"answer", False
    assert recent.find(b"1") is None
    assert not len(recent)


async def test_who_repeats_a_request_waits_for_its_execution(nursery):
    recent = RecentAnswers()
    with recent.executing(b"1") as execution:
        assert recent.busy
        nursery.start_soon(execution.ended)
        await trio.lowlevel.checkpoint()
        execution.answer = b"answer"
    await execution.ended()
    assert not recent.busy


def test_answers_are_forgotten_after_their_time():
    clock = Clock()
    recent = RecentAnswers(seconds=10, clock=clock)
    execute(recent, b"1")
    clock.now = 5
    execute(recent, b"2")
    clock.now = 11
    assert recent.find(b"1") is None
    assert recent.find(b"2").answer == b"answer"


def test_the_number_of_requests_is_bounded():
    recent = RecentAnswers(requests=5)
    for number in range(20):
        execute(recent, b"%d" % number)
    assert len(recent) == 5
    assert recent.find(b"19").answer == b"answer"


def test_an_answer_that_had_to_go_leaves_its_id():
    recent = RecentAnswers(size=10)
    execute(recent, b"1", b"12345678")
    execute(recent, b"2", b"12345678")
    assert recent.find(b"1").answer is None
    assert recent.find(b"1").done
    assert recent.find(b"2").answer == b"12345678"


def test_what_is_still_executed_is_never_forgotten():
    recent = RecentAnswers(requests=2, size=1)
    with recent.executing(b"running") as running:
        for number in range(10):
            execute(recent, b"%d" % number)
        assert recent.find(b"running") is running
        running.answer = b""
