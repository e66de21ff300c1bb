"""The rest of a synthetic log: times, request context, labels, and the item and user tables.

Shapes: R rows of the log, one user after the other; U users, I items.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ensue.data.synthetic.config import DAY_S, SyntheticConfig
from ensue.data.synthetic.truth import Floats, Ints, Truth, substitute_groups
from ensue.data.synthetic.words import ADJECTIVES, brand_names, category_names, category_nouns

HOUR_S = 3_600
DEVICES = ("mobile", "desktop", "tablet", "tv")
DEVICE_SHARES = (0.55, 0.3, 0.1, 0.05)
NEW_SESSION_RATE = 0.25
MEAN_GAP_S = 150.0
BRANDS_PER_CATEGORY = 6
INTEREST_SHARE = 0.1

# Click and like rates where the labels are noise, and click rates where they are structure.
CLICK_RATE, LIKE_RATE = 0.6, 0.4
INTERESTED_CLICK_RATE, OTHER_CLICK_RATE = 0.9, 0.2
MEDIAN_WATCH_S, WATCH_SPREAD = 20.0, 0.8
CLICK_WATCH, LIKE_WATCH = 1.2, 1.0  # added to the logarithm of the watch seconds


def raw_ids(letter: str, count: int) -> pl.Series:
    """Return readable ids of equal width.

    >>> raw_ids("u", 12)[[0, 11]].to_list()
    ['u01', 'u12']
    """
    numbers = pl.int_range(1, count + 1, eager=True).cast(pl.String)
    return letter + numbers.str.zfill(len(str(count)))


def item_table(truth: Truth, rng: np.random.Generator) -> pl.DataFrame:
    """Return item, category, brand, tags and title of each item.

    The tags are the words of the title and the series: items of a series share their successors.
    """
    num_items, num_categories = len(truth.popularity), truth.config.num_categories
    category = truth.item_category
    brand = category * BRANDS_PER_CATEGORY + rng.integers(0, BRANDS_PER_CATEGORY, num_items)
    nouns = category_nouns(num_categories)
    first_noun = np.cumsum([0] + [len(words) for words in nouns])
    num_nouns = np.diff(first_noun)[category]
    noun = first_noun[category] + (rng.random(num_items) * num_nouns).astype(np.int64)
    adjective = rng.integers(0, len(ADJECTIVES), num_items)
    return pl.DataFrame(
        {
            "item": raw_ids("i", num_items),
            "category": pl.Series(category_names(num_categories)).gather(category),
            "brand": pl.Series(brand_names(num_categories * BRANDS_PER_CATEGORY)).gather(brand),
            "adjective": pl.Series(ADJECTIVES).gather(adjective),
            "noun": pl.Series([word for words in nouns for word in words]).gather(noun),
            "series": substitute_groups(category, truth.config.num_substitutes),
        }
    ).select(
        "item",
        "category",
        "brand",
        pl.format("{}|{}|series {}", "noun", "adjective", "series").alias("tags"),
        pl.concat_str("adjective", "noun", separator=" ").alias("title"),
    )


def user_table(truth: Truth, rng: np.random.Generator) -> pl.DataFrame:
    """Return user, usual device, usual hour (0 to 23), favorite category, interests of each user.

    The interests are the favorite category and the others of a tenth of the taste or more.
    """
    num_users = truth.config.num_users
    device = rng.choice(len(DEVICES), size=num_users, p=DEVICE_SHARES)
    names = pl.Series(category_names(truth.config.num_categories))
    favorite = truth.user_taste.argmax(axis=1)
    is_interest = truth.user_taste >= INTEREST_SHARE
    is_interest[np.arange(num_users), favorite] = True
    owner, interest = np.nonzero(is_interest)
    interests = pl.DataFrame({"user": owner, "name": names.gather(interest)})
    joined = interests.group_by("user", maintain_order=True).agg(pl.col("name").str.join("|"))
    return pl.DataFrame(
        {
            "user": raw_ids("u", num_users),
            "usual_device": pl.Series(DEVICES).gather(device),
            "usual_hour": np.clip(rng.normal(19.0, 4.0, num_users), 0, 23).astype(np.int64),
            "favorite_category": names.gather(favorite),
            "interests": joined["name"],
        }
    )


def draw_times(
    config: SyntheticConfig, users: Ints, usual_hour: Ints, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Return seconds since 1970 [R], increasing within a user, and the number of the session [R].

    Sessions are spread evenly over the days; rows of a session are minutes apart.
    """
    is_first = np.append(True, users[1:] != users[:-1])
    starts_session = is_first | (rng.random(len(users)) < NEW_SESSION_RATE)
    session = np.cumsum(starts_session) - 1
    owner = users[starts_session]
    day = rng.integers(0, config.days, len(owner))
    is_usual = rng.random(len(owner)) < config.context_strength
    hour = np.where(is_usual, usual_hour[owner], rng.integers(0, 24, len(owner)))
    starts = day * DAY_S + hour * HOUR_S + rng.integers(0, HOUR_S, len(owner))
    starts = starts[np.lexsort((starts, owner))]  # owners are in order already
    gap = 1 + rng.exponential(MEAN_GAP_S, len(users)).astype(np.int64)
    gap[starts_session] = 0
    elapsed = np.cumsum(gap)
    elapsed -= elapsed[starts_session][session]
    seconds = starts[session] + elapsed
    return config.start_s + _increase(seconds, users, is_first, config.days * DAY_S), session


def _increase(seconds: Ints, users: Ints, is_first: NDArray[np.bool_], end_s: int) -> Ints:
    """Return `seconds` [R] raised where needed to increase within each user, and below `end_s`."""
    first_row = np.flatnonzero(is_first)
    length = np.diff(np.append(first_row, len(users)))
    position = np.arange(len(users)) - np.repeat(first_row, length)
    # Sessions can overlap. Far-apart bands, one a user, turn one running maximum into one per user.
    band = 4 * end_s * users
    raised = np.maximum.accumulate(seconds - position + band) - band + position
    return np.minimum(raised, end_s - np.repeat(length, length) + position)


def draw_devices(
    config: SyntheticConfig, usual: pl.Series, users: Ints, session: Ints, rng: np.random.Generator
) -> pl.Series:
    """Return the device of each row [R]: one a session, mostly the user's usual one."""
    owner = users[np.append(True, session[1:] != session[:-1])]
    is_usual = rng.random(len(owner)) < config.context_strength
    other = pl.Series(DEVICES).gather(rng.integers(0, len(DEVICES), len(owner)))
    device = usual.gather(owner).zip_with(pl.Series(is_usual), other)
    return device.gather(session)


def draw_labels(
    truth: Truth, users: Ints, items: Ints, rng: np.random.Generator
) -> tuple[Ints, Ints, Floats]:
    """Return click, like (0 or 1) and watch seconds (positive) of each row [R]."""
    click_rate, like_rate = label_rates(truth, users, items)
    strength = truth.config.label_strength
    click = rng.random(len(users)) < click_rate
    like = click & (rng.random(len(users)) < like_rate)
    effect = strength * (CLICK_WATCH * click + LIKE_WATCH * like)
    noise = rng.normal(0.0, WATCH_SPREAD, len(users))
    watch = np.maximum(np.round(MEDIAN_WATCH_S * np.exp(effect + noise), 1), 0.1)
    return click.astype(np.int64), like.astype(np.int64), watch


def label_rates(truth: Truth, users: Ints, items: Ints) -> tuple[Floats, Floats]:
    """Return the chance of a click, and of a like where there is a click [R]."""
    strength = truth.config.label_strength
    interest = truth.is_interested(users, items)
    planted_click = np.where(interest, INTERESTED_CLICK_RATE, OTHER_CLICK_RATE)
    planted_like = np.where(interest, truth.item_quality[items], 0.0)
    return (
        (1.0 - strength) * CLICK_RATE + strength * planted_click,
        (1.0 - strength) * LIKE_RATE + strength * planted_like,
    )
