"""How well fake users can be told from real ones by what they clicked, without labels.

Each detector gives every user a number; its AUROC says how often a fake user's is larger than a
real one's: 0.5 is chance, 1 tells all apart, and so does 0, where fake users have the smaller
numbers. Who looks for fake users does not know the targets, and no detector reads them.

```
mahalanobis-2, -16   distance from the mean of all users in the first 2 or 16 factors of a truncated
                     SVD of the clicks, each user's row scaled to norm 1
neighbors-2, -16     mean distance to the 10 nearest users in the same factors
mahalanobis-wrmf     the two for the vectors of users of a weighted factorization of width 16
neighbors-wrmf       (`ensue.models.baselines.wrmf`)
crowding-16          neighbors-16, negative: large for users who lie close together
clicks               number of clicks
popularity           mean logarithm of the popularity of what is clicked
rare                 share of the clicks on the less popular half of the items
features             Mahalanobis distance in the three before, clicks as a logarithm
any                  largest of the shares of users that mahalanobis-16, neighbors-16, crowding-16
                     and features give a smaller number: for who does not know what to look for
```

Looking at the factors is the check of Tang, Wen and Wang (RecSys 2020, arXiv:2008.04876), who do it
in two dimensions and by eye; the features are among those of Chirita, Nejdl and Zamfir (WIDM 2005),
for clicks.

Shapes: N users (real ones first), I items, D factors.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ensue.audit.clicks import Clicks, both_ways
from ensue.evaluation.ranking.metrics import auc
from ensue.models.baselines.wrmf import half_sweep, initial_vectors

Floats = NDArray[np.float64]

NUM_NEIGHBORS = 10
MAX_REFERENCES = 20_000  # users among whom neighbors are looked for, a sample where there are more
BLOCK_USERS = 512
WIDTH, SWEEPS, WEIGHT, RIDGE = 16, 10, 20.0, 0.05  # of the weighted factorization
DETECTORS = (
    *(f"{name}-{place}" for place in (2, 16, "wrmf") for name in ("mahalanobis", "neighbors")),
    "crowding-16",
    "clicks",
    "popularity",
    "rare",
    "features",
    "any",
)
COMBINED = ("mahalanobis-16", "neighbors-16", "crowding-16", "features")


def suspicions(clicks: Clicks, *, seed: int) -> dict[str, Floats]:
    """Return the number that each detector gives each user [N].

    Args:
        seed: of the random start of the factors, and of the sample of references.
    """
    found: dict[str, Floats] = {}
    factors = user_factors(clicks, 16, seed=seed)
    of_places = {"2": factors[:, :2], "16": factors, "wrmf": wrmf_factors(clicks, seed=seed)}
    for name, places in of_places.items():
        found[f"mahalanobis-{name}"] = mahalanobis(places)
        found[f"neighbors-{name}"] = neighbor_distances(places, seed=seed)
    features = _features(clicks)
    found["crowding-16"] = -found["neighbors-16"]
    found |= dict(zip(("clicks", "popularity", "rare"), features.T, strict=True))
    found["features"] = mahalanobis(
        np.column_stack([np.log1p(features[:, 0]), features[:, 1], features[:, 2]])
    )
    found["any"] = np.max([_shares_below(found[name]) for name in COMBINED], axis=0)
    return {name: found[name] for name in DETECTORS}


def _shares_below(values: Floats) -> Floats:
    """Return the share of users with a smaller number than each [N]."""
    return np.searchsorted(np.sort(values), values) / len(values)


def detectability(found: dict[str, Floats], num_real: int) -> dict[str, float]:
    """Return the AUROC of fake against real users by detector.

    >>> detectability({"clicks": np.array([1.0, 3.0, 2.0])}, num_real=2)
    {'clicks': 0.5}
    """
    return {name: _auroc(values, num_real) for name, values in found.items()}


def _auroc(values: Floats, num_real: int) -> float:
    value = auc(np.arange(len(values)) >= num_real, values)
    assert value is not None  # there are real users and fake ones
    return value


def user_factors(clicks: Clicks, dim: int, *, seed: int) -> Floats:
    """Return the places of users [N, D] in the first factors, each scaled by its singular value.

    By randomized subspace iteration (Halko, Martinsson and Tropp, SIAM Review 2011). Fewer factors
    where users or items are fewer.
    """
    num_users, num_items = clicks.num_users, clicks.num_items
    lengths = clicks.lengths
    owners = np.repeat(np.arange(num_users), lengths)
    values = (1.0 / np.sqrt(np.maximum(lengths, 1)))[owners]
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([owners, clicks.columns.astype(np.int64)])),
        torch.from_numpy(values),
        (num_users, num_items),
        check_invariants=True,
        is_coalesced=True,
    )
    wanted = min(dim, num_users, num_items)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, singular, _ = torch.svd_lowrank(
            matrix, q=min(wanted + 8, num_users, num_items), niter=8
        )
    places: Floats = (left * singular)[:, :wanted].numpy()
    return places


def wrmf_factors(clicks: Clicks, *, seed: int) -> Floats:
    """Return the vectors of users [N, WIDTH] of a weighted factorization of the clicks."""
    by_user, by_item = both_ways(clicks)
    items = initial_vectors(clicks.num_items, WIDTH, seed)
    for _ in range(SWEEPS):
        users = half_sweep(items, *by_user, WEIGHT, RIDGE)
        items = half_sweep(users, *by_item, WEIGHT, RIDGE)
    return users.double().numpy()


def mahalanobis(places: Floats) -> Floats:
    """Return the distance of each place [N, D] from the mean, in deviations of all of them."""
    centered = places - places.mean(axis=0)
    covariance = np.atleast_2d(np.cov(centered, rowvar=False, bias=True))
    # A factor in which nobody differs has no deviation, and the pseudo-inverse leaves it out.
    inverse = np.linalg.pinv(covariance, hermitian=True)
    squares = np.einsum("ui,ij,uj->u", centered, inverse, centered)
    return np.sqrt(np.maximum(squares, 0.0))


def neighbor_distances(
    places: Floats, *, seed: int, max_references: int = MAX_REFERENCES
) -> Floats:
    """Return the mean distance [N] to the nearest 10 others, exact up to `max_references` users."""
    num_users = len(places)
    references = np.arange(num_users)
    if num_users > max_references:
        rng = np.random.default_rng([seed, 2])
        references = np.sort(rng.choice(num_users, max_references, replace=False))
    others = torch.from_numpy(places[references])
    own = np.full(num_users, -1)  # where a user is among the references
    own[references] = np.arange(len(references))
    k = min(NUM_NEIGHBORS, len(references) - 1)
    means = np.zeros(num_users)
    for first in range(0, num_users if k > 0 else 0, BLOCK_USERS):
        block = torch.from_numpy(places[first : first + BLOCK_USERS])
        distances = torch.cdist(block, others, compute_mode="donot_use_mm_for_euclid_dist")
        place = own[first : first + BLOCK_USERS]
        known = np.flatnonzero(place >= 0)
        distances[torch.from_numpy(known), torch.from_numpy(place[known])] = torch.inf
        nearest = distances.topk(k, largest=False).values
        means[first : first + len(block)] = nearest.mean(dim=1).numpy()
    return means


def _features(clicks: Clicks) -> Floats:
    """Return clicks, mean log popularity and share of rare items of each user [N, 3]."""
    counts, lengths = clicks.counts(), clicks.lengths
    owners = np.repeat(np.arange(clicks.num_users), lengths)
    is_rare = counts <= np.median(counts[counts > 0]) if counts.any() else counts > 0
    divisor = np.maximum(lengths, 1)

    def mean(values: NDArray[np.generic]) -> Floats:
        return np.bincount(owners, values[clicks.columns], minlength=len(lengths)) / divisor

    return np.column_stack([lengths.astype(float), mean(np.log1p(counts)), mean(is_rare)])
