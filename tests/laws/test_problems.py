"""Every method reaches the minimum of the same three problems, in every type, in 600 compiled steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import METHODS_OF_UNITS, public_factories

import lrx
import lrx.schedules

STEPS = 600
TARGET = np.asarray([1.0, -0.5, 0.75, -1.25])
DESIGN = np.asarray([[1, 0.5, 0, 0.25], [0, 1, -0.5, 0], [0.5, 0, 1.5, -0.25], [0, 0.25, 0, 0.75], [-0.5, 0, 0.25, 1]])


def parabola(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.abs(x - TARGET.astype(x.dtype)) ** 2)


def valley(x: jax.Array) -> jax.Array:
    """Return the height in two of Rosenbrock's valleys, 5 times as steep as long."""
    along, across = x[::2], x[1::2]
    return jnp.sum(jnp.abs(1 - along) ** 2) + 5 * jnp.sum(jnp.abs(across - along**2) ** 2)


def least_squares(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.abs(DESIGN.astype(x.dtype) @ (x - TARGET.astype(x.dtype))) ** 2)


PROBLEMS = (parabola, valley, least_squares)

METHODS: dict[str, Callable[[], Any]] = {
    label: make for unit in METHODS_OF_UNITS for label, make in unit.DESCENDS.items()
}

# optax's directions, with an lrx rate at the end of the chain.
DIRECTIONS: dict[str, tuple[Callable[[], Any], float]] = {
    "adadelta": (optax.scale_by_adadelta, 30.0),
    "adafactor": (
        lambda: optax.chain(
            optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()
        ),
        0.1,
    ),
    "adam": (optax.scale_by_adam, 0.1),
    "adamax": (optax.scale_by_adamax, 0.1),
    "adan": (optax.scale_by_adan, 0.1),
    "ademamix": (optax.contrib.scale_by_ademamix, 0.1),
    "adopt": (optax.contrib.scale_by_adopt, 0.1),
    "amsgrad": (optax.scale_by_amsgrad, 0.1),
    "belief": (optax.scale_by_belief, 0.03),
    "clip_by_global_norm": (lambda: optax.clip_by_global_norm(1.0), 0.1),
    "ema": (lambda: optax.ema(0.9), 0.1),
    "lamb": (lambda: optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio(min_norm=1e-3)), 0.03),
    "lbfgs": (optax.scale_by_lbfgs, 0.1),
    "lion": (optax.scale_by_lion, 0.01),
    "novograd": (optax.scale_by_novograd, 0.03),
    "optimistic_gradient": (lambda: optax.scale_by_optimistic_gradient(beta=0.5), 0.03),
    "radam": (optax.scale_by_radam, 0.1),
    "rms": (optax.scale_by_rms, 0.01),
    "rprop": (lambda: optax.scale_by_rprop(0.01), 1.0),
    "rss": (optax.scale_by_rss, 0.3),
    "sign": (optax.scale_by_sign, 0.01),
    "sm3": (optax.scale_by_sm3, 0.3),
    "stddev": (optax.scale_by_stddev, 0.01),
    "trace": (lambda: optax.trace(0.9), 0.01),
    "yogi": (optax.scale_by_yogi, 0.1),
}
# Of the others, test_wrapped.py shows that the updates are optax's own.
ALL = METHODS | {
    f"optax {name}": lambda make=make, rate=rate: optax.chain(make(), lrx.cosine_decay(rate, STEPS))
    for name, (make, rate) in DIRECTIONS.items()
    if name in ("adam", "lbfgs", "trace")
}

# Of optax's directions, those that its documentation has for complex numbers too.
FOR_COMPLEX = METHODS | {f"optax {name}": ALL[f"optax {name}"] for name in ("adam", "trace")}


def loss_of(x: jax.Array, problem: jax.Array) -> jax.Array:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.stack([loss(wide) for loss in PROBLEMS])[problem]


def descend(methods: dict[str, Callable[[], Any]], dtype: Any) -> dict[str, np.ndarray]:
    """Run all methods on all problems in one compiled program, and return the final loss as a share of the first."""
    made = {name: optax.with_extra_args_support(make()) for name, make in methods.items()}

    def final(problem: jax.Array) -> dict[str, jax.Array]:
        start = jnp.zeros(TARGET.shape, dtype)

        def step(carry: Any, _: None) -> Any:
            after = {}
            for name, tx in made.items():
                x, state = carry[name]
                value, gradient = jax.value_and_grad(loss_of)(x, problem)
                # JAX's gradient of a complex number is the conjugate of the direction of ascent.
                feedback = {"value": value, "value_fn": lambda y: loss_of(y, problem)}
                updates, state = tx.update(jnp.conj(gradient), state, x, **feedback)
                after[name] = optax.apply_updates(x, updates), state
                assert updates.dtype == dtype
            return after, None

        last, _ = jax.lax.scan(step, {name: (start, tx.init(start)) for name, tx in made.items()}, length=STEPS)
        at_first = loss_of(start, problem)
        return {name: loss_of(lrx.eval_params(state, x), problem) / at_first for name, (x, state) in last.items()}

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(final))(jnp.arange(len(PROBLEMS))))


def test_every_optimizer_and_controller_is_tried():
    described = {name.split()[0] for name in METHODS}
    assert set(public_factories()) - set(lrx.schedules.__all__) <= described


# A share of 1e-3 of the first loss is 97 % of the way. Bfloat16 has 8 bits, and steps below half of its spacing vanish.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "methods", "share"),
    [
        ("float32", ALL, 1e-3),
        ("float64", METHODS, 1e-3),
        ("bfloat16", METHODS, 2e-2),
        ("complex64", FOR_COMPLEX, 1e-3),
    ],
    ids=["float32", "float64", "bfloat16", "complex64"],
)
def test_every_method_reaches_the_minimum(dtype, methods, share):
    with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
        left = descend(methods, jnp.dtype(dtype))
    stuck = {name: shares.round(6).tolist() for name, shares in left.items() if not np.all(shares <= share)}
    assert not stuck
