"""A diverging run is taken back, continues at a smaller rate, and ends if that does not help."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from units import (
    INF,
    NAN,
    Case,
    refuse,
    refuse_fractions,
    refuse_links,
    refuse_words,
)

import lrx

INNER = {
    "sgd": lambda rate: lrx.sgd(rate),
    "momentum": lambda rate: lrx.sgd(rate, momentum=0.9),
    "nesterov": lambda rate: lrx.nesterov(rate),
    "adam": lambda rate: lrx.adam(rate),
}


@pytest.mark.parametrize("name", INNER)
def test_a_run_at_a_thousand_times_the_stable_rate_ends_trained(name: str) -> None:
    curvature = jnp.asarray([1.0, 0.3, 0.1])
    stable = 0.1 if name == "adam" else 1.0
    tx = lrx.rollback_on_divergence(INNER[name](1000.0 * stable))
    start = jnp.asarray([1.0, -2.0, 3.0])

    def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
        theta, state = carry
        value = 0.5 * jnp.sum(curvature * theta**2)
        updates, state = tx.update(curvature * theta, state, theta, value=value)
        return (lrx.apply_updates(theta, updates, state), state), value

    (theta, state), losses = jax.jit(lambda carry: jax.lax.scan(step, carry, None, 600))((start, tx.init(start)))
    assert 1 <= int(state.rollbacks) <= 20
    assert not bool(lrx.stopped(state))
    final = 0.5 * jnp.sum(curvature * theta**2)
    assert float(final) < 0.02 * float(losses[0]), (float(final), int(state.rollbacks))


def test_rollback_takes_back_exactly_and_out_of_infinity() -> None:
    tx = lrx.rollback_on_divergence(lrx.sgd(1.0))
    params = jnp.asarray([0.1, 1e-3])
    state = tx.init(params)
    updates, state = tx.update(jnp.zeros(2), state, params, value=1.0)
    far = jnp.asarray([1e30, INF])
    updates, state = tx.update(jnp.ones(2), state, far, value=1.0)
    np.testing.assert_array_equal(lrx.apply_updates(far, updates, state), params)
    assert bool(state.rolled_back)
    assert float(state.scale) == 0.5


def rolled_back(values: list[float], **arguments: Any) -> tuple[list[bool], float]:
    """Return whether each loss takes the run back, and where it ends; it moves up by 1 a step from 0."""
    tx = lrx.rollback_on_divergence(lrx.sgd(1.0), **arguments)
    params = jnp.zeros([])
    state, seen = tx.init(params), []
    for value in values:
        updates, state = tx.update(-jnp.ones([]), state, params, value=value)
        params = lrx.apply_updates(params, updates, state)
        seen.append(bool(state.rolled_back))
    return seen, float(params)


def test_a_spike_below_the_first_loss_is_no_divergence() -> None:
    low = [0.1] * 40
    assert not any(rolled_back([1.0, *low, 0.9, 0.1])[0])
    assert rolled_back([1.0, *low, 1.1, 0.1])[0][-3:] == [False, True, False]


def test_parameters_are_kept_only_while_the_loss_is_not_above_its_mean() -> None:
    # Kept before the first update (0) and not when the loss had begun to rise.
    assert rolled_back([1.0, 2.0, NAN]) == ([False, False, True], 0.0)
    assert rolled_back([1.0, 0.9, NAN]) == ([False, False, True], 1.0)


def test_rollback_stops_after_its_last_and_says_so() -> None:
    tx = lrx.rollback_on_divergence(lrx.sgd(0.5), max_rollbacks=1)
    params = jnp.ones(2)
    state = tx.init(params)
    for value in (1.0, NAN, 1.0, INF, 1.0):
        updates, state = tx.update(jnp.ones(2), state, params, value=value)
        params = lrx.apply_updates(params, updates, state)
    assert bool(lrx.stopped(state))
    assert float(lrx.learning_rate(state)) == 0.0
    assert not np.any(updates)
    np.testing.assert_array_equal(params, np.ones(2))


# ---------------------------------------------------------------------- what the laws hold it to


CASES = {
    "rollback_on_divergence": Case(
        lrx.rollback_on_divergence,
        {"tx": lrx.sgd(lrx.linear_decay(0.1, 9), momentum=0.9)},
        {"factor": (0.1, 0.5, 0.9), "max_rollbacks": (0, 1, 3), "explode": (0.1, 5.0, 100.0)},
        needs_params=True,
        needs_value=True,
        coupled=True,
        recovers=True,
        values=(1.0, 1.0, 9.0, 1.0, 1.2, 9.0, 3.0, 1.0),
    ),
}


REFUSED = [
    *refuse(
        lrx.rollback_on_divergence,
        "explode",
        (0.0, -1.0, NAN, INF),
        ValueError,
        "must be a finite number > 0, got {0}=",
    ),
    *refuse_fractions(lrx.rollback_on_divergence, "factor", "(0, 1)", (0.0, 1.0)),
    *refuse_words(lrx.rollback_on_divergence, "feedback"),
    *refuse_links(lrx.rollback_on_divergence),
    *refuse(
        lrx.rollback_on_divergence, "max_rollbacks", (-1, 2.5), ValueError, "must be a whole number of rollbacks >= 0"
    ),
]


DESCENDS = {
    "rollback_on_divergence": lambda: lrx.rollback_on_divergence(lrx.sgd(0.03)),
}


REFERENCE = {
    "rollback_on_divergence": "test_rollback_takes_back_exactly_and_out_of_infinity",
}
