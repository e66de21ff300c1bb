from __future__ import annotations

import numpy as np
import pytest

from ensue.indexes.paths import PathIndex, PathsConfig
from ensue.runs.path_overlap import measure_overlap
from tests.indexes.test_paths import NUM_ITEMS, brute_force, make_model

QUERIES = np.random.default_rng(3).standard_normal((30, 6)).astype(np.float32)


def test_overlap_grows_with_the_beam_up_to_all():
    model = make_model()
    index = PathIndex.build(model, PathsConfig(beam=3))
    measured = measure_overlap(index, QUERIES, k=10, beams=[1, 4, 16, 64])
    overlaps = [point.overlap for point in measured]
    assert overlaps == sorted(overlaps)
    assert overlaps[0] < 0.5
    assert (measured[-1].overlap, measured[-1].share_scored) == (1.0, 1.0)
    assert index.beam == 3


def test_overlap_is_the_share_of_the_exact_answer():
    model = make_model()
    index = PathIndex.build(model, PathsConfig(beam=3))
    (point,) = measure_overlap(index, QUERIES, k=10, beams=[3])
    exact, (found, _, counts) = (
        brute_force(model, QUERIES, 10)[0],
        index.search_counted(QUERIES, 10),
    )
    shares = [len({*a} & {*b}) / 10 for a, b in zip(exact.tolist(), found.tolist(), strict=True)]
    assert point.overlap == pytest.approx(np.mean(shares))
    assert point.share_scored == counts.mean() / NUM_ITEMS
