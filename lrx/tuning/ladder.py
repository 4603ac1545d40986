"""The rates that a range test tries, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from lrx import _checks

LADDERS = ("exponential", "linear", "doubling")
FEWEST_STEPS = 6  # of a ladder: fewer points say nothing
BEYOND = 1e4  # times the last rate: the end of a longer ladder, at most


def make_ladder(min_rate: Any, max_rate: Any, num_steps: Any, kind: str) -> np.ndarray:
    """Return (num_steps,) float32: the rates of a ladder, which hits both ends.

    Raises:
      ValueError: if an argument of `range_test` is out of its range.
    """
    _checks.positive("min_rate", min_rate, "the ladder is one of factors")
    _checks.positive("max_rate", max_rate)
    if max_rate <= min_rate:
        raise ValueError(f"max_rate must be above min_rate, got max_rate={max_rate}, min_rate={min_rate}: swap them.")
    _checks.steps("num_steps", num_steps, at_least=FEWEST_STEPS, hint="with fewer rates nothing can be told")
    _checks.one_of("ladder", kind, LADDERS)
    places = np.arange(num_steps) / (num_steps - 1)
    if kind == "linear":
        rates = min_rate + (max_rate - min_rate) * places
    elif kind == "doubling":
        doublings = int(np.floor(np.log2(max_rate / min_rate) + 1e-9)) + 1
        return (min_rate * 2.0 ** (np.arange(num_steps) * doublings // num_steps)).astype(np.float32)
    else:
        rates = min_rate * (max_rate / min_rate) ** places
    rates[0], rates[-1] = min_rate, max_rate
    return rates.astype(np.float32)


def extend_ladder(rates: np.ndarray, kind: str) -> np.ndarray:
    """Return the rates that continue a ladder: in its own steps, as many again, or up to `BEYOND` times its last."""
    ends, last = rates[[0, -1]].astype(np.float64), float(rates[-1])
    places = np.arange(1, len(rates) + 1)
    with np.errstate(over="ignore"):
        if kind == "linear":
            more = last + (last - ends[0]) / (len(rates) - 1) * places
        elif kind == "doubling":
            doublings = len(np.unique(rates))
            more = last * 2.0 ** (1 + (places - 1) * doublings // len(rates))
        else:
            more = last * (last / ends[0]) ** (places / (len(rates) - 1))
    most = min(BEYOND * last, float(np.finfo(np.float32).max))
    return more[more <= most * (1 + 1e-6)].astype(np.float32)
