"""Time several contestants side by side: in turn, in one process, so that other load on the machine hits all alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class Comparison(NamedTuple):
    """The times of one contestant compared with those of another."""

    median: float  # seconds
    ratio: float  # of its time to the other's: the median over rounds
    low: float  # first quartile of the ratio over rounds
    high: float  # third quartile

    def __str__(self) -> str:
        return f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"


def in_turn(
    contestants: Mapping[str, Callable[[], Any]], rounds: int, *, warmup_rounds: int = 0
) -> dict[str, np.ndarray]:
    """Call every contestant once a round, and return what they measured.

    The order is reversed from round to round, so that each goes first equally often.

    Args:
      contestants: name to a function that returns seconds, or an array of several times.
      rounds: number of rounds that are kept.
      warmup_rounds: number of rounds before these, which are discarded; the first call often compiles.

    Returns:
      name to an array of (rounds,), or (rounds, times) if a contestant returns several.
    """
    measured: dict[str, list[Any]] = {name: [] for name in contestants}
    names = list(contestants)
    for turn in range(warmup_rounds + rounds):
        for name in names if turn % 2 == 0 else names[::-1]:
            found = contestants[name]()
            if turn >= warmup_rounds:
                measured[name].append(found)
    return {name: np.asarray(values, np.float64) for name, values in measured.items()}


def sum_pairs(times: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sum the times of `in_turn` over pairs of consecutive rounds.

    A pair has both orders, so that all sums are taken alike. Single rounds are not: if it matters who goes first, their
    ratios alternate, and neighbours depend on each other.

    Args:
      times: name to (rounds, ...) seconds, with an even number of rounds.

    Returns:
      name to (rounds / 2, ...) seconds.

    Raises:
      ValueError: if the number of rounds is odd.
    """
    for name, each in times.items():
        if len(each) % 2:
            raise ValueError(f"rounds must be even, got {len(each)} of {name}: a pair has both orders.")
    return {name: each[::2] + each[1::2] for name, each in times.items()}


def compare(times: Mapping[str, np.ndarray], reference: str) -> dict[str, Comparison]:
    """Compare the times of `in_turn` round by round with those of one contestant.

    Args:
      times: name to (rounds,) seconds.
      reference: the contestant that the others are divided by.
    """
    found = {}
    for name, each in times.items():
        low, middle, high = np.percentile(each / times[reference], [25, 50, 75])
        found[name] = Comparison(float(np.median(each)), float(middle), float(low), float(high))
    return found


def median_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return a confidence interval of the median, from order statistics of independent values of any distribution.

    Both ends are values: those of the highest rank from either side with which the interval has at least that level.
    With too few values for it, fewer than 6 for 0.95, the ends are NaN.

    Ratios of single rounds of `in_turn` are not independent, as the order alternates; take those of `sum_pairs`. Load
    that drifts still scatters these ratios and widens the interval. If it lasts for several rounds and slows one
    contestant more than the other, neighbours still depend on each other, and the interval contains the median less
    often than `level` says.

    Args:
      values: (n,) values, such as the ratios of the sums of `sum_pairs`.
      level: the probability, in (0, 1), that the interval contains the median.
    """
    number = len(values)
    # The number of values below the median is binomial. Each end may leave out (1 - level) / 2 of it.
    tails = np.cumsum([math.comb(number, below) / 2**number for below in range(number)])
    rank = int(np.searchsorted(tails, (1 - level) / 2, side="right"))
    if rank == 0:
        return math.nan, math.nan
    ordered = np.sort(values)
    return float(ordered[rank - 1]), float(ordered[number - rank])


def seconds_of(function: Callable[..., Any], *arguments: Any) -> float:
    """Return the seconds of one call, until the arrays that it returns are computed."""
    began = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - began


def describe_machine() -> str:
    """Return the device, and the versions of the libraries that are timed."""
    import optax

    return f"{jax.devices()[0].device_kind}, jax {jax.__version__}, optax {optax.__version__}"
