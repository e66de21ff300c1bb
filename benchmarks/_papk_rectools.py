"""pAp@k and partial AUC of `benchmarks.papk` by RecTools.

PYTHON benchmarks/_papk_rectools.py LISTS.npz ANSWERS.npz
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import pandas as pd
from rectools.metrics import PAP, PartialAUC

ROUNDS = 3


def main() -> int:
    """Write the values of each user, and the seconds of each metric."""
    given = np.load(sys.argv[1])
    lists = pd.DataFrame({name: given[name] for name in ("user_id", "item_id", "rank")})
    pairs = given["positives"]
    interactions = pd.DataFrame({"user_id": pairs[:, 0], "item_id": pairs[:, 1]})
    answers: dict[str, Any] = {}
    for name, metric in (("pap", PAP), ("pauc", PartialAUC)):
        seconds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            values = metric(k=int(given["k"])).calc_per_user(lists, interactions)
            seconds.append(time.perf_counter() - started)
        answers[name] = values.sort_index().to_numpy()
        answers[f"{name}_seconds"] = np.median(seconds)
    np.savez(sys.argv[2], **answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
