"""Recommendations for a file of requests, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ensue.errors import DataError
from ensue.files import atomic_file
from ensue.progress import track
from ensue.runs.requests import Recommendation
from ensue.runs.run import Run

CHUNK = 4096  # requests in memory at a time


def recommend_file(
    run: Run,
    requests: Path,
    out: Path,
    *,
    context: Mapping[str, Any] | None = None,
    **options: Any,
) -> int:
    """Answer each line of `requests` with a line of `out`, in order; return how many.

    A line is {"user": ID} or {"history": [ID, ...]}, with "context": {NAME: VALUE, ...} beside it
    for models that read the context of a request; empty lines are skipped. `out` appears whole, at
    the end.

    Args:
        context: of the requests; that of a line goes before it.
        options: of `Run.recommend` (k, exclude_seen, allow, deny).

    Raises:
        DataError: the file cannot be read, or a line is not a request; it names the line.
    """
    count = 0
    with (
        _open(requests) as source,
        atomic_file(out) as temporary,
        temporary.open("w", encoding="utf-8") as sink,
        track("recommend", unit="requests") as advance,
    ):
        lines = ((number, line) for number, line in enumerate(source, 1) if line.strip())
        while chunk := list(islice(lines, CHUNK)):
            parsed = [_parse(line, f"{requests}, line {number}") for number, line in chunk]
            for answer in _answer(run, parsed, context or {}, options):
                sink.write(json.dumps(answer.to_dict()) + "\n")
            count += len(chunk)
            advance(len(chunk))
    return count


def read_ids(path: Path) -> list[str]:
    """Return the ids of a text file, one a line; empty lines are skipped.

    Raises:
        DataError: the file cannot be read.
    """
    with _open(path) as file:
        return [line.strip() for line in file if line.strip()]


def _open(path: Path) -> Any:
    """Open a text file for reading; a file that cannot be read is the caller's error."""
    if not path.is_file():
        raise DataError(f"{path} must be a file that can be read; there is none.")
    return path.open(encoding="utf-8", errors="strict")


def _parse(line: str, place: str) -> dict[str, Any]:
    """Return a request, {"user": ...} or {"history": [...]} (context beside), after a check."""
    try:
        request = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: a request must be JSON; {error}.") from None
    is_id = (str, int)
    has_context = isinstance(request, dict) and isinstance(request.get("context"), dict)
    if isinstance(request, dict) and len(request) == 1 + has_context:
        if isinstance(request.get("user"), is_id):
            return request
        history = request.get("history")
        if isinstance(history, list) and all(isinstance(item, is_id) for item in history):
            return request
    raise DataError(
        f'{place}: a request must be {{"user": ID}} or {{"history": [ID, ...]}}, with "context": '
        "{...} beside it if need be; got "
        f"{line.strip()}."
    )


def _answer(
    run: Run,
    requests: list[dict[str, Any]],
    context: Mapping[str, Any],
    options: dict[str, Any],
) -> list[Recommendation]:
    """Return the answers in the order of the requests."""
    of_users = [request for request in requests if "user" in request]
    of_histories = [request for request in requests if "history" in request]
    answers = run.recommend(
        users=[request["user"] for request in of_users],
        histories=[request["history"] for request in of_histories],
        context=[{**context, **r.get("context", {})} for r in (*of_users, *of_histories)],
        **options,
    )
    users, histories = iter(answers[: len(of_users)]), iter(answers[len(of_users) :])
    return [next(users if "user" in request else histories) for request in requests]
