"""A warm-up that ends at a loss: when the clock of its schedule starts."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from units import (
    INF,
    NAN,
    RATES,
    Case,
    refuse,
    refuse_learning_rates,
    refuse_rates,
    refuse_words,
)

import lrx

CASES = {
    "warmup_until": Case(
        lrx.warmup_until,
        {"learning_rate": lrx.linear_decay(0.3, 9), "warmup_value": 0.02, "threshold": 0.97},
        {"learning_rate": RATES, "warmup_value": RATES, "threshold": (0.5, 0.92, 2.0)},
        needs_value=True,
    ),
    "warmup_until, of a controlled rate": Case(
        lrx.warmup_until,
        {
            "learning_rate": 0.3 * lrx.reduce_on_plateau(patience=0, feedback="observed"),
            "warmup_value": 0.01,
            "threshold": 0.97,
            "feedback": "observed",
        },
        {"threshold": (0.5, 0.92, 2.0)},
    ),
}


REFUSED = [
    *refuse_learning_rates(lrx.warmup_until),
    *refuse_rates(lrx.warmup_until, "warmup_value"),
    *refuse(lrx.warmup_until, "threshold", (NAN, INF), ValueError, "must be a finite number, got {0}="),
    *refuse_words(lrx.warmup_until, "feedback"),
    (lrx.warmup_until, {"metric": "not a name"}, TypeError, "^metric must be the name of an argument, got metric="),
]


DESCENDS = {
    "warmup_until": lambda: lrx.sgd(lrx.warmup_until(0.03, warmup_value=0.003, threshold=1.0)),
}


REFERENCE = {
    "warmup_until": "test_warmup_until_starts_the_clock_of_its_schedule_at_the_trigger",
}


def test_warmup_until_starts_the_clock_of_its_schedule_at_the_trigger() -> None:
    rate = lrx.warmup_until(lrx.linear_decay(0.4, 4), warmup_value=0.01, threshold=0.8, metric="error")
    tx = lrx.sgd(rate)
    state, rates = tx.init(jnp.ones(2)), []
    for error in (0.9, NAN, 0.8, 0.79, 0.95, 0.5):
        _, state = tx.update(jnp.ones(2), state, error=error)
        rates.append(float(lrx.learning_rate(state)))
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.01, 0.4, 0.3, 0.2], rtol=1e-6)
    with pytest.raises(ValueError, match=r"warmup_until needs the error: pass it as tx.update\(.*error=error\)"):
        tx.update(jnp.ones(2), state)


def test_warmup_until_counts_on_between_observations() -> None:
    rate = lrx.warmup_until(lrx.linear_decay(0.4, 4), warmup_value=0.01, threshold=0.8, feedback="observed")
    tx = lrx.sgd(rate)
    state, rates = tx.init(jnp.ones(2)), []
    for value in (None, 0.7, None, None):
        state = state if value is None else lrx.observe(state, value=value)
        _, state = tx.update(jnp.ones(2), state)
        rates.append(float(lrx.learning_rate(state)))
    np.testing.assert_allclose(rates, [0.01, 0.4, 0.3, 0.2], rtol=1e-6)
