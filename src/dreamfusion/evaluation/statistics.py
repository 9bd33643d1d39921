"""Means, medians and shares with their confidence intervals, by bootstrap over runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % confidence interval, and the number of runs it rests on."""

    value: float
    low: float
    high: float
    count: int


def bootstrap(
    values: Sequence[float], statistic: Callable[..., NDArray[np.float64]] = np.mean, seed: int = 0
) -> Estimate | None:
    """Return a statistic of the values with its percentile-bootstrap interval (Efron 1979); None without values.

    ``statistic`` takes an array and ``axis``, like ``np.mean`` and ``np.median``.
    """
    if not values:
        return None
    sample = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).integers(len(sample), size=(_RESAMPLES, len(sample)))
    spread = statistic(sample[draws], axis=1)
    low, high = np.percentile(spread, [2.5, 97.5])
    return Estimate(float(statistic(sample, axis=0)), float(low), float(high), len(sample))


def lowest_tenth(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Return what a tenth of the values is below, along an axis."""
    return np.asarray(np.quantile(values, 0.1, axis=axis))


def share(hits: int, count: int) -> Estimate | None:
    """Return a share with its Wilson score interval (Wilson 1927), which is right for 0 of n, too; None for n = 0."""
    if count == 0:
        return None
    z = 1.959964
    p = hits / count
    middle = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * float(np.sqrt(p * (1 - p) / count + z**2 / (4 * count**2)))
    return Estimate(p, max(0.0, middle - half), min(1.0, middle + half), count)
