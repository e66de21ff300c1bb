"""Batches form while the service is busy, and never otherwise."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest

from ensue.serving.batching import Batcher
from ensue.serving.errors import BusyError


class Work:
    """Returns the double of each number; waits where it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.began, self.may_end = threading.Event(), threading.Event()
        self.may_end.set()

    def __call__(self, asks: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(asks))
        self.began.set()
        assert self.may_end.wait(10)
        if 666 in asks:
            raise RuntimeError("all of it")
        return [2 * ask if ask >= 0 else ValueError(f"{ask} is negative") for ask in asks]

    def hold(self) -> None:
        self.began.clear()
        self.may_end.clear()


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def batcher(work: Work) -> Iterator[Batcher[int, int]]:
    batcher: Batcher[int, int] = Batcher(work, name="test", max_batch=4, max_waiting=8)
    yield batcher
    work.may_end.set()
    batcher.close()


async def ask_while_busy(
    batcher: Batcher[int, int], work: Work, first: int, others: Sequence[int]
) -> list[int | BaseException]:
    """Ask for `others` while `first` is being worked on."""
    work.hold()
    tasks = [asyncio.create_task(batcher.ask(first))]
    await asyncio.to_thread(work.began.wait)
    tasks += [asyncio.create_task(batcher.ask(other)) for other in others]
    await asyncio.sleep(0)  # each of them runs until it waits
    work.may_end.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_a_lone_ask_does_not_wait_for_others(batcher, work):
    assert [asyncio.run(batcher.ask(n)) for n in (1, 2)] == [2, 4]
    assert work.batches == [[1], [2]]


def test_what_arrives_meanwhile_becomes_the_next_batches(batcher, work):
    answers = asyncio.run(ask_while_busy(batcher, work, 1, [2, 3, 4, 5, 6]))
    assert answers == [2, 4, 6, 8, 10, 12]
    assert work.batches == [[1], [2, 3, 4, 5], [6]]
    assert batcher.num_waiting == 0


def test_one_bad_ask_fails_alone(batcher, work):
    _, *answers = asyncio.run(ask_while_busy(batcher, work, 1, [2, -3, 4]))
    assert work.batches[1] == [2, -3, 4]
    assert answers[0] == 4
    assert answers[2] == 8
    assert str(answers[1]) == "-3 is negative"


def test_work_that_fails_fails_its_batch_and_goes_on(batcher, work):
    _, *answers = asyncio.run(ask_while_busy(batcher, work, 1, [2, 666]))
    assert [str(answer) for answer in answers] == ["all of it"] * 2
    assert asyncio.run(batcher.ask(3)) == 6


def test_too_many_are_turned_away_at_once(batcher, work):
    first, *answers = asyncio.run(ask_while_busy(batcher, work, 1, range(2, 12)))
    assert [first, *answers[:7]] == [2 * n for n in range(1, 9)]
    assert all(isinstance(answer, BusyError) for answer in answers[7:])
    assert answers[7].retry_after == 1
    assert asyncio.run(batcher.ask(3)) == 6


def test_who_leaves_is_not_answered_and_disturbs_nobody(batcher, work):
    async def leave() -> list[int]:
        work.hold()
        leaver = asyncio.create_task(batcher.ask(1))
        await asyncio.to_thread(work.began.wait)
        others = [asyncio.create_task(batcher.ask(n)) for n in (2, 3)]
        await asyncio.sleep(0)
        leaver.cancel()
        others[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        work.may_end.set()
        return await others[1]

    assert asyncio.run(leave()) == 6
    assert batcher.num_waiting == 0


def test_close_answers_what_waits(work):
    batcher: Batcher[int, int] = Batcher(work, name="test", max_batch=4, max_waiting=99)

    async def close() -> list[int]:
        work.hold()
        tasks = [asyncio.create_task(batcher.ask(0))]
        await asyncio.to_thread(work.began.wait)
        tasks += [asyncio.create_task(batcher.ask(n)) for n in range(1, 10)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        await asyncio.sleep(0.02)
        assert not closing.done()
        work.may_end.set()
        answers = await asyncio.gather(*tasks)
        await closing
        return answers

    assert asyncio.run(close()) == [2 * n for n in range(10)]
    assert len(work.batches) == 4


def test_a_loop_that_has_ended_ends_nothing_else(batcher, work):
    async def leave() -> None:
        work.hold()
        asking = asyncio.create_task(batcher.ask(1))
        await asyncio.to_thread(work.began.wait)
        assert not asking.done()

    asyncio.run(leave())
    work.may_end.set()
    assert asyncio.run(batcher.ask(2)) == 4
