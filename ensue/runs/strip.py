"""Images side by side, drawn as SVG for a page: a page asks for no image files.

Shapes: S steps, C channels, H height, W width; a volume is cut in its middle.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 32  # of a side; larger images are drawn by means of squares
LEVELS = 12  # of gray
GAP = 2


def draw_strip(
    images: NDArray[np.float32], change: NDArray[np.float32], steps: Sequence[float]
) -> str:
    """Return images [S, C, ...] in a row as SVG, and behind them the map of their change [C, ...].

    The first channel is drawn; the change in one color where it is above 0, in the other below.
    """
    shown = [_shrink(_cut(image[0])) for image in images]
    moved = _shrink(_cut(change[0]))
    height, width = moved.shape
    low, high = float(np.min(shown)), float(np.max(shown))
    span = high - low or 1.0
    parts = []
    for place, (image, step) in enumerate(zip(shown, steps, strict=True)):
        levels = np.round((image - low) / span * LEVELS).astype(np.int64)
        left = place * (width + GAP)
        parts.append(_cells(levels, left, "currentColor"))
        parts.append(_label(left + width / 2, height, f"{step:.2g}"))
    left = len(shown) * (width + GAP)
    full = float(np.abs(moved).max()) or 1.0
    strength = np.round(moved / full * LEVELS).astype(np.int64)
    parts.append(_cells(np.maximum(strength, 0), left, "var(--series-2)"))
    parts.append(_cells(np.maximum(-strength, 0), left, "var(--series-1)"))
    parts.append(_label(left + width / 2, height, "change"))
    return (
        f'<svg viewBox="0 0 {left + width} {height + 6}" role="img" '
        f'aria-label="decoded along the direction of time">{"".join(parts)}</svg>'
    )


def _cut(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an image, or the middle of a volume."""
    return image if image.ndim == 2 else image[len(image) // 2]


def _shrink(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an image of MAX_PIXELS a side at most, means of squares of pixels."""
    factor = -(-max(image.shape) // MAX_PIXELS)
    height, width = (size // factor * factor for size in image.shape)
    squares = image[:height, :width].reshape(height // factor, factor, width // factor, factor)
    return squares.mean(axis=(1, 3))


def _cells(levels: NDArray[np.int64], left: int, color: str) -> str:
    """Return a rectangle for each stretch of a row that has one level above 0."""
    parts = []
    for y, row in enumerate(levels):
        ends = np.flatnonzero(np.append(np.diff(row) != 0, True)) + 1
        for start, end in zip(np.append(0, ends[:-1]).tolist(), ends.tolist(), strict=True):
            if row[start]:
                parts.append(
                    f'<rect x="{left + start}" y="{y}" width="{end - start}" height="1" '
                    f'fill-opacity="{row[start] / LEVELS:.2f}"/>'
                )
    return f'<g fill="{color}" shape-rendering="crispEdges">{"".join(parts)}</g>'


def _label(x: float, y: int, text: str) -> str:
    return (
        f'<text x="{x:g}" y="{y + 4}" font-size="4" text-anchor="middle" '
        f'fill="currentColor">{text}</text>'
    )
