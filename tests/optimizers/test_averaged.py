"""Moving averages of the parameters against plain NumPy, and where they are evaluated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_trees_close, gradient_stream, vector_params
from units import (
    DECAYS,
    NAN,
    Case,
    refuse,
    refuse_links,
)

import lrx
from lrx.training import Batches, Workload

STEPS = 12


def run(tx, steps=STEPS, params=None):
    """Return the iterates and the evaluation points after every step."""
    params = vector_params() if params is None else params
    state, update, iterates, points = tx.init(params), jax.jit(tx.update), [], []
    for gradients in gradient_stream(params, steps):
        updates, state = update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        iterates.append(params)
        points.append(lrx.eval_params(state, params))
    return iterates, points, state


def weighted(iterates, weights):
    return jax.tree.map(
        lambda *leaves: (
            sum(w * np.asarray(leaf, np.float64) for w, leaf in zip(weights, leaves, strict=True)) / sum(weights)
        ),
        *iterates,
    )


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_the_moving_average_is_corrected_from_the_first_iterate_on(decay):
    iterates, points, _ = run(lrx.averaged(lrx.sgd(0.1), decay=decay))
    for t, point in enumerate(points, 1):
        expected = weighted(iterates[:t], [decay ** (t - i) for i in range(1, t + 1)])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), point, expected)


def test_a_half_life_is_a_decay():
    _, points, _ = run(lrx.averaged(lrx.sgd(0.1), half_life=3))
    _, same, _ = run(lrx.averaged(lrx.sgd(0.1), decay=0.5 ** (1 / 3)))
    assert_trees_close(points, same, rtol=1e-6)


@pytest.mark.parametrize("decay", [None, 0.8])
def test_a_tail_begins_after_its_updates_and_is_the_parameters_before(decay):
    iterates, points, state = run(lrx.averaged(lrx.sgd(0.1), decay=decay, start_after=5))
    assert_trees_close(points[:5], iterates[:5], rtol=0)
    for t in range(6, STEPS + 1):
        tail = iterates[5:t]
        expected = weighted(tail, [(1.0 if decay is None else decay) ** (len(tail) - i - 1) for i in range(len(tail))])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), points[t - 1], expected)
    assert int(state.averaged_count) == STEPS - 6  # the newest iterate enters when it is asked for


def test_training_is_that_of_the_transformation_within():
    iterates, _, state = run(lrx.averaged(lrx.adam(lrx.linear_decay(0.1, 20)), decay=0.9))
    alone, _, _ = run(lrx.adam(lrx.linear_decay(0.1, 20)))
    assert_trees_close(iterates, alone, rtol=0, atol=0)
    np.testing.assert_allclose(lrx.learning_rate(state), 0.1 * (1 - (STEPS - 1) / 20), rtol=1e-6)


def test_the_points_are_averaged_where_the_transformation_has_some():
    _, points, _ = run(lrx.averaged(lrx.nesterov(0.1)))
    _, alone, _ = run(lrx.nesterov(0.1))
    expected = weighted(alone, [1.0] * STEPS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), points[-1], expected)


def test_within_an_accumulation_only_applied_updates_count():
    params = vector_params()
    tx = lrx.accumulate(lrx.averaged(lrx.sgd(0.1)), 2)
    iterates, points, _ = run(tx)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        points[-1],
        weighted(iterates[1::2], [1.0] * (STEPS // 2)),
    )
    assert_trees_close(points[0], params, rtol=0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_average_of_narrow_parameters_is_wide(dtype):
    # 0.999 m + 0.001 x is m in bfloat16.
    tx = lrx.averaged(lrx.sgd(0.0), decay=0.999)
    start = jnp.zeros(2, dtype)
    state = tx.init(start)
    assert state.average.dtype == jnp.float32

    def step(state, _):
        return tx.update(start, state, jnp.ones(2, dtype))[1], None

    state = jax.lax.scan(step, tx.update(start, state, start)[1], length=300)[0]
    np.testing.assert_allclose(state.average, 1.0, rtol=1e-6)
    assert lrx.eval_params(state, jnp.ones(2, dtype)).dtype == dtype
    moving = jax.lax.scan(step, state, length=10)[0]
    blended = lrx.eval_params(moving, jnp.zeros(2, dtype))
    np.testing.assert_allclose(blended.astype(jnp.float32), 1 - 0.001 / (1 - 0.999**311), rtol=2e-2)


def test_integers_and_overflowed_iterates_are_not_averaged():
    params = {"w": jnp.ones(2), "table": jnp.arange(3)}
    tx = lrx.averaged(lrx.sgd(1.0), decay=0.5)
    state = tx.init(params)
    for gradient in (1.0, jnp.inf, 1.0):
        updates, state = tx.update({"w": jnp.full(2, gradient), "table": None}, state, params)
        params = {**params, "w": params["w"] + updates["w"]}
    point = lrx.eval_params(state, params)
    np.testing.assert_array_equal(point["table"], jnp.arange(3))
    assert bool(jnp.all(jnp.isfinite(state.average["w"])))


def _centred(evaluate):
    """Build a model with the running mean of its inputs' product with a weight, as a batch norm keeps it."""
    x = jnp.linspace(0.0, 2.0, 64)

    def loss_fn(params, mean, batch, key):
        del key
        product = params * batch
        return jnp.mean((product - 3.0 * batch) ** 2), 0.9 * mean + 0.1 * jnp.mean(product)

    return Workload("centred", lambda key: (jax.random.uniform(key), jnp.zeros([])), loss_fn, Batches(x, 16), evaluate)


def test_training_evaluates_at_the_average_with_its_own_batch_statistics():
    seen = []

    def evaluate(params, mean):
        seen.append((float(params), float(mean)))
        return {"loss": params}

    history = lrx.train(_centred(evaluate), lrx.averaged(lrx.sgd(0.05), decay=0.9), steps=12)
    point = float(lrx.eval_params(history.opt_state, history.params))
    assert seen[-1][0] == pytest.approx(point)
    assert point < float(history.params) - 0.05
    for params, mean in seen:
        np.testing.assert_allclose(mean, params, rtol=0.05)


# ---------------------------------------------------------------------- what the laws hold it to


CASES = {
    "averaged": Case(
        lrx.averaged,
        {"tx": lrx.sgd(lrx.linear_decay(0.1, 9), momentum=0.9), "decay": 0.5},
        {"decay": DECAYS, "start_after": (0, 1, 3)},
        needs_params=True,
    ),
    "averaged by half life": Case(
        lrx.averaged, {"tx": lrx.nesterov(0.1), "half_life": 2.0}, {"half_life": (0.5, 2.0, 9.0)}, needs_params=True
    ),
}


REFUSED = [
    *refuse_links(lrx.averaged),
    *refuse(lrx.averaged, "decay", (-0.1, 1.0, NAN), ValueError, "must be in \\[0, 1\\), got {0}="),
    (lrx.averaged, {"decay": None, "half_life": 0.0}, ValueError, "^half_life must be a finite number > 0, got"),
    (lrx.averaged, {"half_life": 10}, ValueError, "^decay must be left out with half_life, got decay="),
    *refuse(lrx.averaged, "start_after", (-1, 2.5), ValueError, "must be a whole number of updates >= 0"),
]


DESCENDS = {
    "averaged": lambda: lrx.averaged(lrx.adam(0.1), decay=0.9),
}


REFERENCE = {
    "averaged": "test_the_moving_average_is_corrected_from_the_first_iterate_on",
}
