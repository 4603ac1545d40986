"""Early stopping: when it stops a run, and what it shows."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from units import (
    NAN,
    Case,
    refuse,
    refuse_rates,
    refuse_words,
)

import lrx

CASES = {
    "early_stopping": Case(
        lrx.early_stopping,
        {"patience": 1, "accumulation_size": 1},
        {
            "patience": (0, 1, 3),
            "min_delta": (0.0, 0.02, 0.2),
            "accumulation_size": (1, 2, 3),
            "start_after": (0, 3, 5),
        },
        needs_value=True,
    ),
    "early_stopping of an accuracy": Case(
        lrx.early_stopping,
        {"patience": 1, "mode": "max", "feedback": "observed"},
        {"patience": (0, 1, 9), "start_after": (0, 3, 5)},
    ),
}


REFUSED = [
    *refuse(
        lrx.early_stopping, "accumulation_size", (0, -5, 2.5, NAN), ValueError, "must be a whole number of losses >= 1"
    ),
    *refuse(lrx.early_stopping, "start_after", (-1, 2.5, NAN), ValueError, "must be a whole number of updates >= 0"),
    *refuse_rates(lrx.early_stopping, "min_delta"),
    *refuse_words(lrx.early_stopping, "feedback"),
    *refuse_words(lrx.early_stopping, "mode"),
    *refuse(lrx.early_stopping, "patience", (-1, 2.5), ValueError, "must be a whole number of losses >= 0"),
]


DESCENDS = {
    "early_stopping": lambda: lrx.sgd(0.03 * lrx.early_stopping(patience=10)),
}


REFERENCE = {
    "early_stopping": "test_early_stopping_sets_the_rate_to_zero_and_says_so",
}


def test_early_stopping_sets_the_rate_to_zero_and_says_so() -> None:
    tx = lrx.sgd(0.1 * lrx.early_stopping(patience=1, mode="max"))
    state, seen = tx.init(jnp.ones(2)), []
    for accuracy in (0.5, 0.6, 0.6, 0.55, 0.9):
        updates, state = tx.update(jnp.ones(2), state, value=accuracy)
        seen.append((bool(lrx.stopped(state)), float(lrx.learning_rate(state)) > 0))
    assert seen == [(False, True)] * 3 + [(True, False)] * 2
    assert not np.any(updates)
    report = lrx.monitor(state)
    assert report["early_stopping/best_value"] == np.float32(0.6)  # what comes after the end is no improvement
