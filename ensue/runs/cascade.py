"""Two stages: one run retrieves candidates, another one ranks them, within a time budget.

The second stage is a run over histories, which scores the candidates from the same history, or a
ranking run, which scores a row of each candidate (`candidate_scores`, `candidate_rows`). Ranked
candidates come first, best first, ties in the order of retrieval; behind them, in that order, come
those that the ranker does not know or had no time for.
Shapes: C candidates of a request, I items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensue.errors import UsageError, did_you_mean
from ensue.indexes.base import Index
from ensue.runs.candidate_rows import RowScorer, add_columns, find_id_columns
from ensue.runs.candidate_scores import CandidateScorer, HistoryScorer, RankRequest
from ensue.runs.features import feature_names
from ensue.runs.ranker import KIND, RankingRun
from ensue.runs.recommend import one_for_each
from ensue.runs.requests import Recommendation
from ensue.runs.retrieve import Best
from ensue.runs.run import Run
from ensue.runs.stage_time import PROBE, TimeEstimate
from ensue.runs.stored import kind_of, read_info

Values = Mapping[str, Any]
Outcome = Literal["complete", "cut", "skipped"]


class StageTime(NamedTuple):
    """What a stage took for all requests of a call together, and its number of items of one."""

    name: str
    milliseconds: float
    num_items: int


class Ranked(NamedTuple):
    """Candidates [C] of a request in their new order.

    scores: [C], of the first `num_ranked` the ranker's, of the others the retriever's.
    stage: what the second stage took.
    outcome: whether it ranked all candidates, some, or none, for the time that was left.
    unknown_context: values of the request that the ranker does not know.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    num_ranked: int
    stage: StageTime
    outcome: Outcome
    unknown_context: list[str]


@dataclass(frozen=True)
class CascadeAnswer(Recommendation):
    """The answer of two stages to one request.

    num_ranked: how many of the items, from the first on, have the ranker's scores; the others have
        the retriever's, and are in its order.
    stages: the time of each.
    second_stage: "complete", or "cut" or "skipped" where the budget left too little time for all
        candidates, or for any.
    """

    num_ranked: int = 0
    stages: list[StageTime] = field(default_factory=list)
    second_stage: Outcome = "complete"

    def to_dict(self, *, timings: bool = False) -> dict[str, Any]:
        """Return the answer, ready for JSON; with the time of each stage, if asked."""
        answer = super().to_dict()
        answer |= {"ranked": self.num_ranked, "second_stage": self.second_stage}
        if timings:
            answer["stages"] = [
                {"name": one.name, "ms": round(one.milliseconds, 3), "items": one.num_items}
                for one in self.stages
            ]
        return answer


class Cascade:
    """A retriever and a ranker. Everything is read at opening; threads may share it.

    missing_columns: what the ranker reads and neither the items nor the user nor the history give:
        missing, but where a request's context or features have it.

    Args:
        num_candidates: how many items are retrieved and ranked; where more are asked for, more are
            retrieved.
        task: of a ranking run, whose prediction is the score; None is its first.
        user_column, item_column: of a ranking run, the columns of ids; None are those with a usual
            name (`ensue.data.columns`).
        items: for a ranking run, a table of the items with columns that it reads, as the one that
            its dataset was made with; None leaves what the retriever knows of items.
        clock: seconds, from any start.

    Raises:
        UsageError: num_candidates < 1, an argument does not go with the ranker, or a ranking run
            reads nothing of the items.
        DataError: a column of ids is in doubt, or `items` cannot be read.
    """

    def __init__(
        self,
        retriever: Run,
        ranker: Run | RankingRun,
        *,
        num_candidates: int = 200,
        task: str | None = None,
        user_column: str | None = None,
        item_column: str | None = None,
        items: str | Path | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if num_candidates < 1:
            raise UsageError(f"a cascade needs num_candidates >= 1; got {num_candidates}.")
        self.retriever, self.num_candidates, self.clock = retriever, num_candidates, clock
        self._scorer: CandidateScorer
        if isinstance(ranker, RankingRun):
            columns = find_id_columns(ranker, user=user_column, item=item_column)
            table = retriever.item_table
            table = table if items is None else add_columns(table, items)
            self._scorer = RowScorer(ranker, table, columns, task)
        else:
            _check_unused(task=task, user_column=user_column, item_column=item_column, items=items)
            self._scorer = HistoryScorer(ranker, retriever.item_table["raw_id"].to_list())
        self.missing_columns = self._scorer.missing_columns
        self._recommender = retriever.recommender
        schema = self._recommender.encoder.schema
        self._context_names = frozenset(column.name for column in schema.request)
        self._feature_names = feature_names(retriever, "users")
        self._time = TimeEstimate()

    def recommend(
        self,
        *,
        users: Sequence[str | int] | None = None,
        histories: Sequence[Sequence[str | int]] | None = None,
        context: Values | Sequence[Values] | None = None,
        features: Values | Sequence[Values] | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        allow: Iterable[str | int] | None = None,
        deny: Iterable[str | int] | None = None,
        index: str | Path | Index | None = None,
        budget_ms: float | None = None,
    ) -> list[CascadeAnswer]:
        """Return the first k items for users and for histories; see `Recommender.recommend`.

        Args:
            context, features: each stage gets the values that it reads, both where both do.
            budget_ms: for all requests together, both stages; None ranks all candidates. The
                first stage is never cut.

        Raises:
            UsageError: as `Recommender.recommend`, or a name of the context or the features is read
                by neither stage.
        """
        start = self.clock()
        if k < 1:
            raise UsageError(f"recommend needs k >= 1; got {k}.")
        if users is None and histories is None and features is not None:
            histories = [[]] * (1 if isinstance(features, Mapping) else len(features))
        count = len(users or ()) + len(histories or ())
        contexts = one_for_each("context", context, count)
        given = one_for_each("features", features, count)
        own = [self.for_retriever(*values) for values in zip(contexts, given, strict=True)]
        answers = self.retriever.recommend(
            users=users,
            histories=histories,
            context=[context for context, _ in own],
            features=[values for _, values in own] if any(values for _, values in own) else None,
            k=max(k, self.num_candidates),
            exclude_seen=exclude_seen,
            allow=allow,
            deny=deny,
            index=index,
        )
        if not answers:
            return []
        requests = [
            RankRequest(items, answer.user, own_context, own_features)
            for items, answer, own_context, own_features in zip(
                self._histories(users or (), histories or ()), answers, contexts, given, strict=True
            )
        ]
        candidates = self._candidates(answers)
        retrieved = 1000 * (self.clock() - start)
        deadline = None if budget_ms is None else start + budget_ms / 1000
        ranked = self.rank(requests, candidates, deadline=deadline)
        return self._tell(answers, ranked, retrieved, k)

    def for_retriever(self, context: Values, features: Values) -> tuple[Values, Values]:
        """Return what the first stage reads of a request's context and features.

        Raises:
            UsageError: a name is read by neither stage.
        """
        scorer = self._scorer
        check_names("context", [context], self._context_names | scorer.context_names)
        check_names("features", [features], self._feature_names | scorer.feature_names)
        return _only(context, self._context_names), _only(features, self._feature_names)

    def rank(
        self,
        requests: Sequence[RankRequest],
        candidates: Sequence[Best],
        *,
        deadline: float | None = None,
    ) -> list[Ranked]:
        """Return the candidates of each request in the order of the second stage.

        Names of contexts and features that the ranker does not read are left out; `check_names`
        is for the caller.

        Args:
            candidates: dense ids of the retriever and its scores, best first.
            deadline: when to be done, by `clock`; None has no end.

        Raises:
            UsageError: a value does not fit its column.
            RunError: the ranker's scores are not finite.
        """
        start = self.clock()
        sizes = np.array([len(ids) for ids, _ in candidates], dtype=np.int64)
        wanted = np.minimum(sizes, self.num_candidates)
        limits = wanted if deadline is None else self._affordable(wanted, deadline - start)
        active = np.flatnonzero(limits > 0).tolist()
        pairs = [(requests[n], candidates[n][0][: limits[n]]) for n in active]
        scores: dict[int, NDArray[np.float32]] = {}
        unknown: dict[int, list[str]] = {}
        if pairs:
            found = self._scorer.score(
                [self._own_values(request) for request, _ in pairs], [ids for _, ids in pairs]
            )
            parts = np.split(found.scores, np.cumsum(limits[active])[:-1])
            scores = dict(zip(active, parts, strict=True))
            unknown = dict(zip(active, found.unknown_context, strict=True))
            num_units = len(active) if self._scorer.costs_by_request else int(limits.sum())
            self._time.observe(num_units, self.clock() - start)
        milliseconds = 1000 * (self.clock() - start)
        answers = []
        for n, (ids, own) in enumerate(candidates):
            order, values, num_ranked = _merge(own, scores.get(n, own[:0]))
            stage = StageTime("rank", milliseconds, int(limits[n]))
            outcome = _outcome(int(limits[n]), int(wanted[n]))
            answers.append(
                Ranked(ids[order], values, num_ranked, stage, outcome, unknown.get(n, []))
            )
        return answers

    def _affordable(self, wanted: NDArray[np.int64], seconds: float) -> NDArray[np.int64]:
        """Return how many candidates of each request can be ranked in the time that is left."""
        count = int((wanted > 0).sum())
        if not count:
            return wanted
        if self._scorer.costs_by_request:
            num_requests = self._time.affordable(seconds, least=1, probe=1)
            return np.where(np.cumsum(wanted > 0) <= num_requests, wanted, 0)
        num_rows = self._time.affordable(seconds, least=count, probe=PROBE * count)
        return np.minimum(wanted, num_rows // count)

    def _own_values(self, request: RankRequest) -> RankRequest:
        """Return a request with what the ranker reads of it."""
        return request._replace(
            context=_only(request.context or {}, self._scorer.context_names),
            features=_only(request.features or {}, self._scorer.feature_names),
        )

    def _histories(
        self, users: Sequence[str | int], histories: Sequence[Sequence[str | int]]
    ) -> list[NDArray[np.int64]]:
        """Return the histories of users, then those that were given, in dense ids."""
        stored = self._recommender.histories
        of_users = self._recommender.user_ids.to_dense(users)
        given = [self._recommender.item_ids.to_dense(items) for items in histories]
        return [
            *(stored[user].astype(np.int64) for user in of_users),
            *(items[items > 0] for items in given),
        ]

    def _candidates(self, answers: Sequence[Recommendation]) -> list[Best]:
        """Return the items of answers in dense ids, and their scores."""
        raw = [item for answer in answers for item in answer.items]
        ends = np.cumsum([len(answer.items) for answer in answers], dtype=np.int64)
        dense = np.split(self._recommender.item_ids.to_dense(raw), ends[:-1])
        return [
            (ids, np.asarray(answer.scores, dtype=np.float32))
            for ids, answer in zip(dense, answers, strict=True)
        ]

    def _tell(
        self,
        answers: Sequence[Recommendation],
        ranked: Sequence[Ranked],
        retrieved_ms: float,
        k: int,
    ) -> list[CascadeAnswer]:
        """Return the answers of both stages."""
        shown = [one.ids[:k] for one in ranked]
        raw = iter(self._recommender.item_ids.to_raw(np.concatenate(shown)))
        told = []
        for answer, one, ids in zip(answers, ranked, shown, strict=True):
            retrieved = StageTime("retrieve", retrieved_ms, len(answer.items))
            both = [*answer.unknown_context, *one.unknown_context]
            told.append(
                CascadeAnswer(
                    items=[next(raw) for _ in ids],
                    scores=one.scores[:k].tolist(),
                    user=answer.user,
                    is_known=answer.is_known,
                    unknown_items=answer.unknown_items,
                    unknown_context=list(dict.fromkeys(both)),
                    num_ranked=min(one.num_ranked, len(ids)),
                    stages=[retrieved, one.stage],
                    second_stage=one.outcome,
                )
            )
        return told


def open_ranker(path: str | Path) -> Run | RankingRun:
    """Return the run at `path`, of either kind."""
    path = Path(path)
    return RankingRun(path) if kind_of(read_info(path)) == KIND else Run(path)


def check_names(what: str, given: Sequence[Values], known: frozenset[str]) -> None:
    """Check that a stage reads each value that requests give.

    Raises:
        UsageError: none does.
    """
    for values in given:
        if not values.keys() <= known:
            name = next(name for name in values if name not in known)
            raise UsageError(
                f"{what} holds values that a stage of the cascade reads; none reads {name!r}."
                + (did_you_mean(name, sorted(known)) if known else "")
            )


def _merge(
    retrieved: NDArray[np.float32], scores: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32], int]:
    """Return the new order [C] of candidates, their scores [C], and how many are ranked.

    Args:
        retrieved: the retriever's scores [C]. scores: of the first of them; NaN is unknown.
    """
    is_known = np.zeros(len(retrieved), dtype=np.bool_)
    is_known[: len(scores)] = ~np.isnan(scores)
    ranked = np.flatnonzero(is_known)
    ranked = ranked[np.argsort(-scores[ranked], kind="stable")]
    order = np.concatenate([ranked, np.flatnonzero(~is_known)])
    values = retrieved[order]
    values[: len(ranked)] = scores[ranked]
    return order, values, len(ranked)


def _outcome(limit: int, wanted: int) -> Outcome:
    if limit == wanted:
        return "complete"
    return "cut" if limit else "skipped"


def _only(values: Values, names: frozenset[str]) -> dict[str, Any]:
    """Return the values with these names."""
    return {name: value for name, value in values.items() if name in names}


def _check_unused(**given: object) -> None:
    """Check that none of these arguments of ranking runs is given."""
    for name, value in given.items():
        if value is not None:
            raise UsageError(
                f"{name} is for a ranker that is a ranking run; this one reads histories."
            )
