"""Micro-batching: what arrives while a batch is being worked on becomes the next batch.

Nothing waits for others on purpose: an idle service answers a lone request at once, a busy one
answers many in one go, which costs little more than one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

from ensue.serving.errors import BusyError

AskT = TypeVar("AskT")
AnswerT = TypeVar("AnswerT")
SECONDS_TO_CLOSE = 30.0


class _Waiting(NamedTuple):
    ask: Any
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]


class Batcher(Generic[AskT, AnswerT]):
    """A thread that answers what was asked meanwhile, some at a time.

    Args:
        work: returns an answer, or an error to raise, for each of up to `max_batch` asks.
        max_waiting: asks that may wait, those of the batch at work among them.
    """

    def __init__(
        self,
        work: Callable[[Sequence[AskT]], Sequence[AnswerT | Exception]],
        *,
        name: str,
        max_batch: int,
        max_waiting: int,
    ) -> None:
        self._work, self._max_batch, self._max_waiting = work, max_batch, max_waiting
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
            self._queue.put(_Waiting(ask, loop, answer))
            return await answer
        finally:
            self.num_waiting -= 1

    def close(self) -> None:
        """Answer all that waits, and end the thread."""
        self._queue.put(None)
        self._thread.join(SECONDS_TO_CLOSE)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, is_last = [first], False
            while len(batch) < self._max_batch and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    is_last = True
                    break
                batch.append(following)
            self._answer(batch)
            if is_last:
                return

    def _answer(self, batch: list[_Waiting]) -> None:
        try:
            answers: Sequence[Any] = self._work([waiting.ask for waiting in batch])
        except Exception as error:
            answers = [error] * len(batch)
        try:
            batch[0].loop.call_soon_threadsafe(_settle, batch, answers)
        except RuntimeError:
            return  # the loop has ended, and with it everybody who waits


def _settle(batch: Sequence[_Waiting], answers: Sequence[Any]) -> None:
    """Give each future its answer, in the event loop."""
    for waiting, answer in zip(batch, answers, strict=True):
        if waiting.answer.done():  # whoever asked has left
            continue
        if isinstance(answer, Exception):
            waiting.answer.set_exception(answer)
        else:
            waiting.answer.set_result(answer)
