"""`monitor` shows the numbers of each method under stable names."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from state_examples import ADAM_KEYS, GRADS, LABELS, PARAMS, linear, plateau

import lrx
import lrx.editing
import lrx.rate_paths

# --- monitor ---------------------------------------------------------------------------------------------------------


PLATEAU = ["factor", "scale", "best_value", "plateau_count", "cooldown_count", "value_count", "accumulation_size"]


PLATEAU_KEYS = [f"reduce_on_plateau/{field}" for field in PLATEAU]


@pytest.mark.parametrize(
    ("tx", "keys"),
    [
        (linear(), ["learning_rate", "scale"]),
        (lrx.sgd(0.1, momentum=0.9), ["learning_rate", "scale", "momentum/momentum"]),
        (lrx.adam(0.1), ["learning_rate", "scale", *ADAM_KEYS]),
        (lrx.adamw(0.1), ["learning_rate", "scale", "adamw/weight_decay", *ADAM_KEYS]),
        (
            lrx.accumulate(lrx.rmsprop(0.1), 2),
            ["learning_rate", "scale", "accumulation/gathered", "accumulation/every", "rmsprop/decay"],
        ),
        (
            lrx.group_rates(lrx.heavy_ball(0.1), LABELS, {"body": 1.0, "head": 0.1}),
            ["learning_rate/body", "learning_rate/head", "scale/body", "scale/head", "heavy_ball/momentum"],
        ),
        (lrx.heavy_ball(0.1), ["learning_rate", "scale", "heavy_ball/momentum"]),
        (lrx.nesterov(0.1 * plateau()), ["learning_rate", "scale", "nesterov/momentum", *PLATEAU_KEYS]),
        (optax.chain(optax.adam(1e-3), plateau()), ["factor", *PLATEAU_KEYS]),
        (optax.chain(lrx.sgd(0.1), linear().multiplier()), ["learning_rate", "scale", "factor"]),
        (
            lrx.sgd(plateau() * 0.1 * plateau()),
            ["learning_rate", "scale", *PLATEAU_KEYS, *[f"reduce_on_plateau_2/{field}" for field in PLATEAU]],
        ),
        (
            lrx.sgd(0.1 * plateau() * plateau(feedback="observed")),
            [
                *[
                    "learning_rate",
                    "scale",
                    *PLATEAU_KEYS,
                    "reduce_on_plateau_2/factor",
                    "reduce_on_plateau_2/observations",
                ],
                *[f"reduce_on_plateau_2/{field}" for field in PLATEAU[1:]],
            ],
        ),
        (
            optax.chain(plateau(), lrx.sgd(0.1), plateau()),
            [
                "learning_rate",
                "scale",
                "factor",
                *PLATEAU_KEYS,
                "factor_2",
                *[f"reduce_on_plateau_2/{field}" for field in PLATEAU],
            ],
        ),
        (
            optax.partition({"body": lrx.heavy_ball(0.1), "head": lrx.sgd(0.1 * plateau())}, LABELS),
            [
                "learning_rate/body",
                "learning_rate/head",
                "scale/body",
                "scale/head",
                "body/heavy_ball/momentum",
                *[f"head/{key}" for key in PLATEAU_KEYS],
            ],
        ),
        (
            optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9),
            ["learning_rate", "momentum"],
        ),
        (optax.adamw(1e-3), []),
        (
            optax.chain(optax.snapshot("norm", optax.tree.norm), optax.snapshot("all", lambda tree: tree), linear()),
            ["learning_rate", "scale", "norm"],
        ),
    ],
)
def test_monitor_names_are_stable_and_readable(tx: Any, keys: list[str]) -> None:
    state = tx.init(PARAMS)
    before = lrx.monitor(state)
    after = lrx.monitor(tx.update(GRADS, state, PARAMS, **({"value": 1.0} if "plateau" in str(keys) else {}))[1])
    assert list(before) == list(after) == keys
    assert all(jnp.shape(value) == () for value in after.values())
    compiled = jax.jit(lrx.monitor)(state)
    assert {key: float(value) for key, value in compiled.items()} == {
        key: float(value) for key, value in before.items()
    }


def test_monitor_shows_numbers_of_the_method_and_not_scalar_parameters() -> None:
    state = lrx.heavy_ball(0.1).init({"scalar": jnp.array(1.0)})
    assert list(lrx.monitor(state)) == ["learning_rate", "scale", "heavy_ball/momentum"]
    assert float(lrx.monitor(state)["heavy_ball/momentum"]) == np.float32(0.9)


def test_reading_runs_inside_a_compiled_scan() -> None:
    tx = lrx.adam(linear() * plateau(feedback="observed"))

    @jax.jit
    def run(state: Any) -> Any:
        def body(state: Any, loss: jax.Array) -> Any:
            state = tx.update(GRADS, state, PARAMS)[1]
            state = lrx.scale_learning_rate(state, jnp.where(loss > 5, 0.1, 1.0))
            return lrx.observe(state, value=loss), lrx.monitor(state)

        return jax.lax.scan(body, state, jnp.array([9.0, 1.0, 1.0, 1.0]))

    state, report = run(tx.init(PARAMS))
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(PARAMS))
    # The observation of a step is taken by the next one.
    np.testing.assert_allclose(report["learning_rate"], [0.8, 0.7 * 0.1, 0.06, 0.05 * 0.5], rtol=1e-6)


def test_a_rate_that_a_method_computes_for_itself_is_read_but_not_scaled() -> None:
    tx, params = lrx.cocob(), jnp.ones(2)
    updates, state = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(lrx.learning_rate(state), jnp.linalg.norm(updates) / jnp.linalg.norm(params), rtol=1e-6)
    with pytest.raises(ValueError, match="holds no learning rate that could be scaled: its method, as cocob"):
        lrx.scale_learning_rate(state, 0.5)
    with pytest.raises(ValueError, match="holds no learning rate that could be scaled"):
        lrx.rollback_on_divergence(tx).init(params)
