"""Relative adaptation: searching, creeping, cutting and resting."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from units import (
    NAN,
    Case,
    refuse,
    refuse_fractions,
    refuse_rates,
    refuse_words,
)

import lrx
import lrx.workloads.datasets

CASES = {
    "relative_adaptation": Case(
        lrx.relative_adaptation,
        {},
        {
            "smoothing": (0.0, 0.5, 0.9),
            "growth": (1.1, 1.2, 2.0),
            "creep": (0.0, 0.01, 0.1),
            "backoff": (0.1, 0.3, 0.9),
            "tolerance": (0.0, 0.1, 9.0),
            "target": (0.01, 0.1, 0.9),
            "min_factor": (0.1, 0.9, 1.0),
            "max_factor": (1.0, 1.1, 9.0),
            "start_after": (0, 3, 5),
        },
        needs_value=True,
        values=(5.0, 5.0, 5.0, 1.0) + (1.0,) * 19 + (0.5, 0.5, 0.4, 0.4, 3.0, 3.0),
    ),
}


REFUSED = [
    *refuse(
        lrx.relative_adaptation, "start_after", (-1, 2.5, NAN), ValueError, "must be a whole number of updates >= 0"
    ),
    *refuse_rates(lrx.relative_adaptation, "creep"),
    *refuse_rates(lrx.relative_adaptation, "tolerance"),
    *refuse(lrx.relative_adaptation, "max_factor", (0.9, NAN), ValueError, "must be a finite number >= 1, got {0}="),
    *refuse(lrx.relative_adaptation, "growth", (1.0, NAN), ValueError, "must be a finite number > 1, got {0}="),
    *refuse_fractions(lrx.relative_adaptation, "smoothing", "[0, 1)", (-0.1, 1.0)),
    *refuse_fractions(lrx.relative_adaptation, "backoff", "(0, 1)", (0.0, 1.0)),
    *refuse_fractions(lrx.relative_adaptation, "target", "(0, 1)", (0.0, 1.0)),
    *refuse_fractions(lrx.relative_adaptation, "min_factor", "(0, 1]", (0.0, 1.1)),
    *refuse_words(lrx.relative_adaptation, "feedback"),
]


DESCENDS = {
    "relative_adaptation": lambda: lrx.sgd(0.03 * lrx.relative_adaptation()),
}


REFERENCE = {
    "relative_adaptation": "test_relative_adaptation_searches_creeps_cuts_and_rests",
}


def test_relative_adaptation_searches_creeps_cuts_and_rests() -> None:
    controller = lrx.relative_adaptation(smoothing=0.0)
    state, scales = controller.init(None), []
    for value in [1.0] * 23 + [0.5] * 5 + [2.0] * 4:
        _, state = controller.update((), state, value=value)
        scales.append(float(state.latest))
    searched = [1.0] * 20 + [1.2, 1.2**2, 1.2**3]
    crept = [1.2 ** (3 + 0.005 * step) for step in range(1, 6)]
    np.testing.assert_allclose(scales, searched + crept + [0.3 * crept[-1]] * 4, rtol=1e-5)


def test_relative_adaptation_forgets_one_loss_far_out() -> None:
    controller = lrx.relative_adaptation()
    state = controller.init(None)
    for value in [1.0] * 20 + [1e6] + [1.0] * 10:
        _, state = controller.update((), state, value=value)
    mean = state.memories[0].memory.mean
    assert float(mean.weighted_sum / mean.weight) < 1.1


@pytest.mark.slow
def test_relative_adaptation_needs_no_rate_to_start_from() -> None:
    """Check that starting rates of 1e-6 to 1 end within two points of accuracy, on digits with gradient descent."""
    digits = lrx.workloads.datasets.load("digits")
    x, test_x = (jnp.asarray(images.reshape(len(images), -1), jnp.float32) / 255 for images in digits[1:4:2])
    y, test_y = jnp.asarray(digits.train_labels), jnp.asarray(digits.test_labels)

    def logits(params: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ params["w"] + params["b"][None]) @ params["v"]

    def loss_of(params: Any, chosen: jax.Array) -> jax.Array:
        return -jnp.mean(jax.nn.log_softmax(logits(params, x[chosen]))[jnp.arange(64), y[chosen]])

    def accuracy(rate: jax.Array) -> jax.Array:
        tx = lrx.sgd(rate * lrx.relative_adaptation())
        first, second = jax.random.split(jax.random.key(0))
        w, v = jax.random.normal(first, (64, 64)) / 6, jax.random.normal(second, (64, 10)) / 8
        params = {"w": w, "b": jnp.zeros(64), "v": v}

        def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
            params, state = carry
            chosen = jax.random.randint(key, (64,), 0, len(x))
            value, grads = jax.value_and_grad(loss_of)(params, chosen)
            updates, state = tx.update(grads, state, params, value=value)
            return (lrx.apply_updates(params, updates, state), state), None

        keys = jax.random.split(jax.random.key(1), 1500)
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
        return jnp.mean(logits(params, test_x).argmax(-1) == test_y)

    reached = jax.jit(jax.vmap(accuracy))(10.0 ** jnp.arange(-6.0, 1.0))
    assert float(jnp.max(reached) - jnp.min(reached)) <= 0.02, reached
    assert float(jnp.min(reached)) > 0.94, reached
