"""Rules of the server: the moments of Reddi et al., and how they behave as transformations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx
from lrx.federated import fed_adagrad, fed_adam, fed_yogi, scale_by_server_moments

RATE, B1, B2, TAU = 0.03, 0.8, 0.95, 0.02
MAKE: dict[str, Callable[..., Any]] = {"adagrad": fed_adagrad, "adam": fed_adam, "yogi": fed_yogi}


def transcription(rule: str, changes: np.ndarray) -> np.ndarray:
    """Return the parameters after each round: algorithm 2 of Reddi et al., in float64."""
    x, m, v, path = np.zeros(changes.shape[1]), 0.0, TAU**2, []
    for change in changes:
        m = B1 * m + (1 - B1) * change
        if rule == "adagrad":
            v = v + change**2
        elif rule == "adam":
            v = B2 * v + (1 - B2) * change**2
        else:
            v = v - (1 - B2) * change**2 * np.sign(v - change**2)
        x = x + RATE * m / (np.sqrt(v) + TAU)
        path.append(x)
    return np.stack(path)


def built(rule: str, rate: Any = RATE, **changed: Any) -> Any:
    arguments = {"b1": B1, "b2": B2, "tau": TAU} | changed
    if rule == "adagrad":
        del arguments["b2"]
    return MAKE[rule](rate, **arguments)


@pytest.mark.parametrize("rule", MAKE)
def test_a_rule_follows_its_transcription(rule: str) -> None:
    changes = np.random.default_rng(0).normal(size=(25, 4)) * np.array([1.0, 0.1, 0.01, 1e-4])
    tx = built(rule)

    def step(carry: Any, change: jax.Array) -> Any:
        x, state = carry
        updates, state = tx.update(-change, state, x)
        return (x + updates, state), x + updates

    start = jnp.zeros(4)
    _, path = jax.lax.scan(step, (start, tx.init(start)), jnp.float32(changes))
    np.testing.assert_allclose(path, transcription(rule, changes), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("rule", MAKE)
def test_every_number_sweeps_and_the_rate_is_read(rule: str) -> None:
    def one(tau: jax.Array, rate: jax.Array) -> jax.Array:
        tx = built(rule, rate, tau=tau)
        return tx.update(jnp.ones(2), tx.init(jnp.zeros(2)))[0][0]

    taus, rates = jnp.float32([0.01, 0.1]), jnp.float32([0.1, 0.2])
    swept = jax.vmap(one)(taus, rates)
    np.testing.assert_allclose(swept, [one(*pair) for pair in zip(taus, rates, strict=True)], rtol=1e-6)
    tx = built(rule, lrx.linear_decay(0.1, 10))
    state = tx.init(jnp.zeros(2))
    _, state = tx.update(jnp.ones(2), state)
    assert lrx.learning_rate(state) == jnp.float32(0.1)


def test_types_and_missing_leaves_are_kept() -> None:
    tx = scale_by_server_moments("yogi")
    params = {"a": jnp.zeros(2, jnp.bfloat16), "b": None}
    state = tx.init(params)
    updates, after = tx.update({"a": jnp.ones(2, jnp.bfloat16), "b": None}, state)
    assert updates["a"].dtype == jnp.bfloat16
    assert updates["b"] is None
    assert after.second_moment["a"].dtype == jnp.float32
    assert tx == scale_by_server_moments("yogi")
    assert repr(fed_adam(0.1)) == "fed_adam(0.1)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "sgd"}, "rule must be .*adagrad.*got rule='sgd'"),
        ({"b1": 1.0}, "b1 must be in"),
        ({"b2": -0.1}, "b2 must be in"),
        ({"tau": 0.0}, "tau must be"),
    ],
)
def test_bad_numbers_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scale_by_server_moments(**arguments)
