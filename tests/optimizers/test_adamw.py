"""AdamW against plain NumPy in both couplings of its decay."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import assert_trees_close, gradient_stream, vector_params
from units import (
    DECAYS,
    EPS,
    FOLLOWING_FEEDBACK,
    RATES,
    Case,
    refuse_fractions,
    refuse_learning_rates,
    refuse_moment_dtypes,
    refuse_rates,
    refuse_words,
)

import lrx

STEPS = 30


def stream():
    return np.random.default_rng(17).normal(size=(STEPS, 4))


def paper(alpha_at, decay_at, b1=0.9, b2=0.999, eps=1e-8):
    """Apply theta - alpha_t m^ / (sqrt(v^) + eps) - decay_t theta."""
    theta, m, v, path = np.ones(4), 0.0, 0.0, []
    for t, gradient in enumerate(stream()):
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        direction = (m / (1 - b1 ** (t + 1))) / (np.sqrt(v / (1 - b2 ** (t + 1))) + eps)
        theta = theta - alpha_at(t) * direction - decay_at(t) * theta
        path.append(theta)
    return np.asarray(path)


def run(tx):
    params, path = jnp.ones(4), []
    state, update = tx.init(params), jax.jit(tx.update)
    for gradient in stream():
        updates, state = update(jnp.asarray(gradient, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
        path.append(np.asarray(params))
    return np.asarray(path), state


SCHEDULE = lrx.warmup(lrx.linear_decay(0.05, 20), 10)


def alpha_at(t):
    return 0.05 * t / 10 if t < 10 else 0.05 * (1 - (t - 10) / 20)


def close(path, expected):
    np.testing.assert_allclose(path, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01, 1.0])
def test_coupled_to_the_rate_the_decay_is_multiplied_by_the_rate(weight_decay):
    close(run(lrx.adamw(0.05, weight_decay=weight_decay))[0], paper(lambda t: 0.05, lambda t: 0.05 * weight_decay))
    scheduled = run(lrx.adamw(SCHEDULE, weight_decay=weight_decay))[0]
    close(scheduled, paper(alpha_at, lambda t: alpha_at(t) * weight_decay))


def test_decoupled_as_in_the_paper_the_decay_follows_the_shape_of_the_schedule_only():
    for scale in (1.0, 0.1):
        path, _ = run(lrx.adamw(SCHEDULE * scale, weight_decay=0.02, decoupling="schedule"))
        close(path, paper(lambda t, scale=scale: scale * alpha_at(t), lambda t: 0.02 * alpha_at(t) / 0.05))


def test_with_a_constant_rate_the_papers_decay_is_constant_whatever_the_rate():
    for rate in (0.05, 0.001):
        path, _ = run(lrx.adamw(rate, weight_decay=0.02, decoupling="schedule"))
        close(path, paper(lambda t, rate=rate: rate, lambda t: 0.02))


def test_the_papers_form_under_a_traced_rate_and_a_warmup_from_zero():
    @jax.jit
    def after_20(rate, weight_decay):
        tx = lrx.adamw(lrx.warmup(rate, 10), weight_decay=weight_decay, decoupling="schedule")
        params, state = jnp.ones(4), None
        state = tx.init(params)
        for gradient in stream()[:20]:
            updates, state = tx.update(jnp.asarray(gradient, jnp.float32), state, params)
            params = params + updates
        return params

    expected = paper(lambda t: 0.05 * min(t / 10, 1), lambda t: 0.02 * min(t / 10, 1))[19]
    close(after_20(0.05, 0.02), expected)
    swept = jax.vmap(after_20, in_axes=(0, None))(jnp.asarray([0.0, 0.05]), 0.02)
    close(swept[1], expected)
    np.testing.assert_array_equal(swept[0], np.ones(4))  # a rate of 0 divides nothing by 0, and decays nothing


def test_base_rate_says_where_the_decay_acts_in_full():
    path, _ = run(lrx.adamw(SCHEDULE, weight_decay=0.02, decoupling="schedule", base_rate=0.1))
    close(path, paper(alpha_at, lambda t: 0.02 * alpha_at(t) / 0.1))
    own = lrx.Schedule(lambda count: 0.05 / (1.0 + count))
    with pytest.raises(ValueError, match=r"^base_rate must be given"):
        lrx.adamw(own, decoupling="schedule")
    close(
        run(lrx.adamw(own, weight_decay=0.02, decoupling="schedule", base_rate=0.05))[0],
        paper(lambda t: 0.05 / (1 + t), lambda t: 0.02 / (1 + t)),
    )


def test_feedback_acts_on_the_papers_decay_as_the_schedule_does():
    rate = lrx.linear_decay(0.05, 20) * lrx.reduce_on_plateau(factor=0.5, patience=0)
    tx = lrx.adamw(rate, weight_decay=0.02, decoupling="schedule")
    params = jnp.ones(4)
    state = tx.init(params)
    for t, factor in enumerate([1.0, 0.5, 0.25]):
        updates, state = tx.update(jnp.zeros(4), state, params, value=1.0)
        np.testing.assert_allclose(updates, np.full(4, -0.02 * factor * (1 - t / 20)), rtol=1e-5)


def test_torchs_lambda_is_the_papers_divided_by_the_rate():
    close(
        run(lrx.adamw(SCHEDULE, weight_decay=0.02, decoupling="schedule"))[0],
        run(lrx.adamw(SCHEDULE, weight_decay=0.02 / 0.05))[0],
    )


def test_the_decay_may_be_a_schedule_and_is_shown():
    path, state = run(lrx.adamw(0.05, weight_decay=lrx.linear_decay(0.4, 40)))
    close(path, paper(lambda t: 0.05, lambda t: 0.05 * 0.4 * (1 - t / 40)))
    report = lrx.monitor(state)
    np.testing.assert_allclose(report["adamw/weight_decay"], 0.4 * (1 - 29 / 40), rtol=1e-6)
    np.testing.assert_allclose(report["adam/b2"], 0.999, rtol=1e-6)


@pytest.mark.parametrize(
    "mask", [{"a": True, "b": False}, lambda params: {"a": True, "b": False}, {"a": np.bool_(True), "b": False}]
)
def test_a_mask_spares_leaves(mask):
    params, zeros = vector_params(), jax.tree.map(jnp.zeros_like, vector_params())
    tx = lrx.adamw(0.1, weight_decay=0.5, mask=mask)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(updates["a"], -0.05 * params["a"], rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], zeros["b"])


def test_a_mask_may_name_whole_branches_and_must_fit():
    params = {"head": {"w": jnp.ones(2), "b": jnp.ones(1)}, "body": jnp.ones(3)}
    tx = lrx.adamw(0.1, weight_decay=0.5, mask={"head": False, "body": True})
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert not np.any(updates["head"]["w"])
    assert np.all(updates["body"] < 0)
    tx = lrx.adamw(0.1, mask={"other": True})
    with pytest.raises(ValueError, match=r"^mask must have the parameters' tree or a prefix of it"):
        tx.update(params, tx.init(params), params)


@pytest.mark.parametrize("rate", [0.01, SCHEDULE])
def test_it_equals_optax_and_the_chain_of_links(rate):
    params = vector_params()
    contestants = [
        lrx.adamw(rate, weight_decay=0.1),
        optax.adamw(rate, weight_decay=0.1),
        optax.chain(lrx.scale_by_adam(), optax.add_decayed_weights(0.1), lrx.constant(1.0) * rate),
    ]
    states = [tx.init(params) for tx in contestants]
    for gradients in gradient_stream(params, STEPS):
        results = [tx.update(gradients, state, params) for tx, state in zip(contestants, states, strict=True)]
        states = [state for _, state in results]
        for updates, _ in results[1:]:
            # optax computes 1 - b2^t in float32, which cancels at first: hence the tolerance.
            assert_trees_close(results[0][0], updates, rtol=1e-4, atol=1e-7)


def test_narrow_parameters_are_decayed_in_wide_arithmetic():
    params = jnp.ones(1, jnp.bfloat16)
    tx = lrx.adamw(1.0, weight_decay=1e-3)
    updates, _ = tx.update(jnp.zeros(1, jnp.bfloat16), tx.init(params), params)
    np.testing.assert_allclose(np.asarray(updates, np.float32), [-1e-3], rtol=2**-8)


def test_with_the_schedule_the_decay_keeps_clear_of_the_factors_of_groups():
    params = {"hidden": jnp.ones(2), "embedding": jnp.ones(2), "frozen": jnp.ones(2)}
    factors = {"hidden": 1 / 16, "embedding": 1.0, "frozen": 0.0}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for rate, eta in ((1e-2, 1.0), (lrx.linear_decay(1e-2, 4), 0.75)):
        tx = lrx.group_rates(
            lrx.adamw(rate, weight_decay=1e-3, decoupling="schedule"), {name: name for name in params}, factors
        )
        state = tx.init(params)
        _, state = tx.update(zeros, state, params)
        updates, state = tx.update(zeros, state, params)
        decays = {name: -float(leaf[0]) for name, leaf in updates.items()}
        assert decays == pytest.approx({"hidden": 1e-3 * eta, "embedding": 1e-3 * eta, "frozen": 0.0}, rel=1e-6)
        gradients = jax.tree.map(jnp.ones_like, params)
        after, _ = tx.update(gradients, state, params)
        assert not np.any(after["frozen"])
    tx = lrx.group_rates(lrx.adamw(1e-2, weight_decay=1e-3), {name: name for name in params}, factors)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(updates["hidden"], -1e-5 / 16, rtol=1e-6)


# ---------------------------------------------------------------------- what the laws hold it to


CASES = {
    "adamw": Case(
        lrx.adamw,
        {"learning_rate": 0.1},
        {
            "learning_rate": RATES,
            "b1": DECAYS,
            "b2": DECAYS,
            "eps": EPS,
            "eps_root": EPS,
            "weight_decay": (0.0, 0.1, 1.0),
        },
        needs_params=True,
        decays=True,
    ),
    "adamw of the paper": Case(
        lrx.adamw,
        {
            "learning_rate": lrx.warmup(0.1, 3),
            "weight_decay": lrx.linear_decay(0.1, 9),
            "decoupling": "schedule",
            "mask": lambda params: jax.tree.map(lambda leaf: jnp.ndim(leaf) == 2, params),
        },
        {"base_rate": (0.01, 0.1, 1.0)},
        needs_params=True,
        decays=True,
    ),
}


REFUSED = [
    *refuse_rates(lrx.adamw, "eps_root"),
    *refuse_moment_dtypes(lrx.adamw),
    *refuse_learning_rates(lrx.adamw),
    *refuse_fractions(lrx.adamw, "b1", "[0, 1)", (-0.1, 1.0)),
    *refuse_fractions(lrx.adamw, "b2", "[0, 1)", (-0.1, 1.0)),
    *refuse_rates(lrx.adamw, "eps"),
    *refuse_rates(lrx.adamw, "weight_decay"),
    *refuse_words(lrx.adamw, "decoupling"),
    (lrx.adamw, {"base_rate": 0.1}, ValueError, '^base_rate must be left out with decoupling="rate", got'),
    (lrx.adamw, {"decoupling": "schedule", "base_rate": 0.0}, ValueError, "^base_rate must be a finite number > 0"),
    (
        lrx.adamw,
        {"decoupling": "schedule", "learning_rate": lambda count: 0.1 / (1 + count)},
        ValueError,
        '^base_rate must be given with decoupling="schedule" for .*got base_rate=None',
    ),
    (lrx.adamw, {"mask": {"a": 1}}, TypeError, "^mask must hold True and False only"),
    (lrx.adamw, {"b1": lrx.constant(1.5)}, ValueError, "^b1 must be in \\[0, 1\\), got b1=1.5"),
    (lrx.adamw, {"weight_decay": FOLLOWING_FEEDBACK}, TypeError, "^weight_decay must be a number or a Schedule, got"),
]


DESCENDS = {
    "adamw": lambda: lrx.adamw(0.1, weight_decay=0.0),
}


REFERENCE = {
    "adamw": "test_decoupled_as_in_the_paper_the_decay_follows_the_shape_of_the_schedule_only",
}
