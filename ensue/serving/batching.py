"""Micro-batching: what arrives while a batch is being worked on becomes the next batch.

Nothing waits for others on purpose: an idle service answers a lone request at once, a busy one
answers many in one go, which costs little more than one. Quick work is done in the event loop:
another thread that needs the interpreter too would take longer to wake than the work takes.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

from ensue.serving.errors import BusyError

AskT = TypeVar("AskT")
AnswerT = TypeVar("AnswerT")
SECONDS_TO_CLOSE = 30.0
SECONDS_IN_LOOP = 0.0  # for which everything else may wait
SMOOTHING = 0.1  # weight of the last batch in what an ask is thought to take


class _Waiting(NamedTuple):
    ask: Any
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]


class Batcher(Generic[AskT, AnswerT]):
    """A thread that answers what was asked meanwhile, some at a time.

    Args:
        work: returns an answer, or an error to raise, for each of up to `max_batch` asks.
        max_waiting: asks that may wait, those of the batch at work among them.
        may_use_loop: whether the event loop may do work that was quick so far: work that waits
            for no other machine.
    """

    def __init__(
        self,
        work: Callable[[Sequence[AskT]], Sequence[AnswerT | Exception]],
        *,
        name: str,
        max_batch: int,
        max_waiting: int,
        may_use_loop: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._clock = clock
        self._work, self._max_batch, self._max_waiting = work, max_batch, max_waiting
        self._may_use_loop, self._seconds_each = may_use_loop, math.inf
        self._gathered: list[_Waiting] = []  # in this round of the event loop
        self._is_closed = False
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self.num_waiting = 0  # written by the event loop alone
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def ask(self, ask: AskT) -> AnswerT:
        """Return the answer to `ask`.

        Raises:
            BusyError: too many wait already.
            Exception: what `work` gave for it.
        """
        if self.num_waiting >= self._max_waiting:
            raise BusyError("the service has more requests than it answers now.", retry_after=1)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[AnswerT] = loop.create_future()
        self.num_waiting += 1
        try:
            self._gathered.append(_Waiting(ask, loop, answer))
            if len(self._gathered) == 1:
                loop.call_soon(self._start)
            return await answer
        finally:
            self.num_waiting -= 1

    def close(self) -> None:
        """Answer all that waits, and end the thread."""
        self._is_closed = True
        self._queue.put(None)
        self._thread.join(SECONDS_TO_CLOSE)

    def _start(self) -> None:
        """Answer what was gathered, or give it to the thread."""
        gathered, self._gathered = self._gathered, []
        is_quick = self._may_use_loop and self._seconds_each * len(gathered) <= SECONDS_IN_LOOP
        is_idle = self.num_waiting <= len(gathered) <= self._max_batch
        if (is_quick and is_idle) or self._is_closed:
            _settle(gathered, self._answers(gathered))
            return
        for waiting in gathered:
            self._queue.put(waiting)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, is_last = [first], False
            while len(batch) < self._max_batch and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    is_last = True
                    break
                batch.append(following)
            answers = self._answers(batch)
            with suppress(RuntimeError):  # the loop has ended, and with it everybody who waits
                first.loop.call_soon_threadsafe(_settle, batch, answers)
            if is_last:
                return

    def _answers(self, batch: Sequence[_Waiting]) -> Sequence[Any]:
        started = self._clock()
        answers: Sequence[Any]
        try:
            answers = self._work([waiting.ask for waiting in batch])
        except Exception as error:
            answers = [error] * len(batch)
        seconds = (self._clock() - started) / len(batch)
        known = seconds if math.isinf(self._seconds_each) else self._seconds_each
        self._seconds_each = known + SMOOTHING * (seconds - known)
        return answers


def _settle(batch: Sequence[_Waiting], answers: Sequence[Any]) -> None:
    """Give each future its answer, in the event loop."""
    for waiting, answer in zip(batch, answers, strict=True):
        if waiting.answer.done():  # whoever asked has left
            continue
        if isinstance(answer, Exception):
            waiting.answer.set_exception(answer)
        else:
            waiting.answer.set_result(answer)
