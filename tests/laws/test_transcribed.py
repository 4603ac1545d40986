"""Law 10: each method follows a plain NumPy transcription of its rule, here on a noisy problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import FORMULAS, METHODS_OF_UNITS, public_factories
from quadratic import NOISE, SCALES, START

import lrx
import lrx.schedules

TRANSCRIBED = {
    label: reference
    for unit in METHODS_OF_UNITS
    for label, reference in unit.REFERENCE.items()
    if not isinstance(reference, str)
}
NAMED = {
    name: (unit, reference)
    for unit in METHODS_OF_UNITS
    for name, reference in unit.REFERENCE.items()
    if isinstance(reference, str)
}


@pytest.mark.parametrize("name", sorted(public_factories()))
def test_every_factory_has_a_reference(name):
    if name in lrx.schedules.__all__:
        assert name in FORMULAS
        return
    if name in NAMED:
        unit, test = NAMED[name]
        assert callable(getattr(unit, test)), "the test of the unit that has the transcription"
        return
    assert name in {label.split(",")[0] for label in TRANSCRIBED}


@pytest.mark.parametrize(("tx", "transcription"), TRANSCRIBED.values(), ids=TRANSCRIBED)
def test_a_method_follows_its_transcription(tx: Any, transcription: Callable[[np.ndarray], np.ndarray]) -> None:
    def split(theta: Any) -> dict[str, jax.Array]:
        return {"a": jnp.asarray(theta[:2], jnp.float32), "b": jnp.asarray(theta[2:], jnp.float32).reshape(2, 2)}

    def loss_of(params: Any, noise: jax.Array) -> jax.Array:
        theta = jnp.concatenate([params["a"], params["b"].ravel()])
        return 0.5 * jnp.sum(jnp.asarray(SCALES, jnp.float32) * theta**2) + noise @ theta + 1.0

    def step(carry: Any, noise: jax.Array) -> tuple[Any, None]:
        params, state = carry
        value, grads = jax.value_and_grad(loss_of)(params, noise)
        updates, state = tx.update(grads, state, params, value=value, value_fn=lambda params: loss_of(params, noise))
        return (lrx.apply_updates(params, updates, state), state), None

    start = split(START)
    (params, state), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.asarray(NOISE, jnp.float32)))(
        (start, tx.init(start))
    )
    found = lrx.eval_params(state, params)
    moved = np.concatenate([found["a"], found["b"].ravel()]) - START
    expected = transcription(START) - START
    # Estimates feed back on themselves, so that the rounding of float32 grows over the sixty steps.
    np.testing.assert_allclose(moved, expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())
    assert np.abs(expected).max() > 1e-5
