"""The algebra through the wrappers of optax: the same trajectory, the same reading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from state_examples import PARAMS, linear, plateau

import lrx

STEPS = 6


def warm() -> lrx.Schedule:
    return lrx.warmup(lrx.cosine_decay(0.1, decay_steps=20), warmup_steps=3)


def gradients(params: Any) -> Any:
    """Return the gradients of a badly scaled quadratic."""
    return {"w": jnp.array([1.0, 7.0]) * params["w"], "b": 0.3 * params["b"]}


def trajectory(tx: Any, readable: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return the parameters after each step of a compiled run, and the rate of each."""

    @jax.jit
    def run(params: Any) -> Any:
        def body(carry: Any, _: None) -> Any:
            params, state = carry
            updates, state = tx.update(gradients(params), state, params)
            params = optax.apply_updates(params, updates)
            rate = lrx.learning_rate(state) if readable else 0.0
            return (params, state), (jnp.append(params["w"], params["b"]), rate)

        return jax.lax.scan(body, (params, tx.init(params)), None, STEPS)[1]

    positions, rates = run(PARAMS)
    return np.asarray(positions), np.asarray(rates)


# --- the same object everywhere -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_schedule_gives_the_same_adam_everywhere() -> None:
    schedule = warm()
    expected, rates = trajectory(lrx.adam(schedule))
    np.testing.assert_allclose(rates, schedule(np.arange(STEPS)), rtol=1e-6)
    others = {
        "chain": (optax.chain(optax.scale_by_adam(), schedule), True),
        "optax": (optax.adam(learning_rate=schedule), False),
        "inject": (optax.inject_hyperparams(optax.adam)(learning_rate=schedule), True),
        "inject lrx": (optax.inject_hyperparams(lrx.adam)(learning_rate=schedule), True),
    }
    for name, (tx, readable) in others.items():
        positions, shown = trajectory(tx, readable)
        # optax's bias correction subtracts b2^t from 1 in float32, which costs 1e-5 in the first steps.
        np.testing.assert_allclose(positions, expected, rtol=3e-5, err_msg=name)
        if readable:
            np.testing.assert_allclose(shown, rates, rtol=1e-6, err_msg=name)


def test_the_same_schedule_gives_the_same_adamw_everywhere() -> None:
    schedule = warm()
    expected, _ = trajectory(optax.adamw(learning_rate=schedule, weight_decay=0.1), readable=False)
    for tx, rtol in (
        (optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1), schedule), 1e-6),
        # Injected, b2 is rounded to float32 before it is subtracted from 1.
        (optax.inject_hyperparams(optax.adamw)(learning_rate=schedule, weight_decay=0.1), 5e-5),
    ):
        positions, rates = trajectory(tx)
        np.testing.assert_allclose(positions, expected, rtol=rtol)
        np.testing.assert_allclose(rates, schedule(np.arange(STEPS)), rtol=1e-6)


# --- every wrapper: reading and scaling ---------------------------------------------------------------------------

WRAPPERS: dict[str, Callable[[lrx.Schedule], Any]] = {
    "chain": lambda s: optax.chain(optax.clip_by_global_norm(1e6), s),
    "named_chain": lambda s: optax.named_chain(("direction", optax.identity()), ("rate", s)),
    "lrx": lrx.sgd,
    "masked": lambda s: optax.masked(lrx.sgd(s), {"w": True, "b": True}),
    "partition": lambda s: optax.partition({"all": lrx.sgd(s)}, {"w": "all", "b": "all"}),
    "MultiSteps": lambda s: optax.MultiSteps(lrx.sgd(s), every_k_schedule=1).gradient_transformation(),
    "apply_if_finite": lambda s: optax.apply_if_finite(lrx.sgd(s), max_consecutive_errors=2),
    "inject optax": lambda s: optax.inject_hyperparams(optax.sgd)(learning_rate=s),
    "inject lrx": lambda s: optax.inject_hyperparams(lrx.sgd)(learning_rate=s),
    "inject other": lambda s: optax.chain(optax.inject_hyperparams(optax.clip)(max_delta=1e6), lrx.sgd(s)),
    "inject around": lambda s: optax.inject_hyperparams(lambda learning_rate: lrx.sgd(s))(learning_rate=7.0),
    "all at once": lambda s: optax.apply_if_finite(
        optax.chain(optax.masked(optax.MultiSteps(lrx.sgd(s), 1).gradient_transformation(), {"w": True, "b": True})), 2
    ),
    "conditionally": lambda s: optax.conditionally_transform(lrx.sgd(s), lambda step: step >= 0),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_every_wrapper_reads_and_scales(wrap: Callable[[lrx.Schedule], Any]) -> None:
    tx = wrap(linear())
    traces = []

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        traces.append(1)
        updates, state = tx.update(gradients(params), state, params)
        return updates, state

    def read(state: Any) -> float:
        (rate,) = lrx.learning_rates(state).values()
        return float(rate)

    state = tx.init(PARAMS)
    assert read(state) == np.float32(0.8)
    for count in range(2):
        updates, state = step(PARAMS, state)
        np.testing.assert_allclose(read(state), linear()(count), rtol=1e-6)
        np.testing.assert_allclose(updates["w"][0], -linear()(count), rtol=1e-6)
    scaled = lrx.scale_learning_rate(state, 0.5)
    assert jax.tree.structure(scaled) == jax.tree.structure(state)
    for count in (2, 3):
        updates, scaled = step(PARAMS, scaled)
        np.testing.assert_allclose(read(scaled), 0.5 * linear()(count), rtol=1e-6)
        np.testing.assert_allclose(updates["w"][0], -0.5 * linear()(count), rtol=1e-6)
    assert len(traces) == 1
    first = lrx.scale_learning_rate(tx.init(PARAMS), 0.5)
    np.testing.assert_allclose(read(first), 0.4, rtol=1e-6)
    np.testing.assert_allclose(step(PARAMS, first)[0]["w"][0], -0.4, rtol=1e-6)
    (key,) = [key for key in lrx.monitor(state) if key.startswith("learning_rate")]
    assert float(lrx.monitor(state)[key]) == read(state)


@pytest.mark.parametrize("wrap", [WRAPPERS["lrx"], WRAPPERS["masked"], WRAPPERS["inject optax"]])
def test_a_vmapped_state_gives_a_rate_for_each_member(wrap: Callable[[lrx.Schedule], Any]) -> None:
    def rates(peak: jax.Array) -> Any:
        tx = wrap(lrx.linear_decay(peak, 8))
        state = tx.init(PARAMS)
        return tx.update(PARAMS, tx.update(PARAMS, state, PARAMS)[1], PARAMS)[1]

    states = jax.jit(jax.vmap(rates))(jnp.array([0.8, 0.4]))
    np.testing.assert_allclose(lrx.learning_rate(states), [0.7, 0.35], rtol=1e-6)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_every_wrapper_sets_counts_and_restarts(wrap: Callable[[lrx.Schedule], Any]) -> None:
    tx = wrap(linear())
    state = tx.init(PARAMS)
    label = next(iter(lrx.learning_rates(state))) or None

    def advance(state: Any) -> Any:
        return tx.update(gradients(PARAMS), state, PARAMS)[1]

    def read(state: Any) -> float:
        return round(float(lrx.learning_rate(state, label)), 6)

    state = advance(advance(state))
    assert int(lrx.update_count(state)) == 2
    state = advance(lrx.set_learning_rate(state, 0.07, label))  # 0.7 is on show
    assert read(state) == 0.06
    if any("scale" in name for name in lrx.monitor(state)):
        (scale,) = (value for name, value in lrx.monitor(state, scalars=True).items() if name.startswith("scale"))
        assert scale == pytest.approx(0.1)
    state = advance(lrx.restart_schedule(state))
    assert read(state) == 0.08
    assert int(lrx.update_count(state)) == 4


# --- inject_hyperparams -------------------------------------------------------------------------------------------


def test_of_injected_values_only_the_learning_rate_counts() -> None:
    tx = optax.inject_hyperparams(optax.adamw)(learning_rate=0.1, weight_decay=warm(), b1=0.8)
    state = tx.init(PARAMS)
    assert float(lrx.learning_rate(state)) == np.float32(0.1)
    assert sorted(lrx.monitor(state)) == ["b1", "b2", "eps", "eps_root", "learning_rate", "weight_decay"]
    scaled = lrx.scale_learning_rate(state, 0.5)
    assert float(lrx.learning_rate(scaled)) == np.float32(0.05)
    assert float(lrx.monitor(scaled)["b1"]) == np.float32(0.8)
    with pytest.raises(ValueError, match="no learning rate"):
        lrx.learning_rate(optax.inject_hyperparams(optax.scale)(step_size=0.1).init(PARAMS))


def test_an_injected_number_shows_its_scaling_at_once_and_keeps_it() -> None:
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=0.8)
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    state = lrx.scale_learning_rate(lrx.scale_learning_rate(state, 0.5), 0.5)
    assert float(lrx.learning_rate(state)) == np.float32(0.2)
    updates, state = tx.update(PARAMS, state, PARAMS)
    np.testing.assert_allclose(updates["b"], -0.2 * 0.5, rtol=1e-6)


def test_an_injected_plain_function_is_read_but_cannot_be_scaled() -> None:
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=optax.linear_schedule(0.8, 0.0, 8))
    state = tx.init(PARAMS)
    for expected in (0.8, 0.8, 0.7):
        np.testing.assert_allclose(lrx.learning_rate(state), expected, rtol=1e-6)
        _, state = tx.update(PARAMS, state, PARAMS)
    with pytest.raises(
        ValueError, match=r"learning_rate must be a number or an lrx schedule .*lrx.Schedule\(function\)"
    ):
        lrx.scale_learning_rate(state, 0.5)
    wrapped = optax.inject_hyperparams(optax.sgd)(learning_rate=lrx.Schedule(optax.linear_schedule(0.8, 0.0, 8)))
    state = lrx.scale_learning_rate(wrapped.init(PARAMS), 0.5)
    np.testing.assert_allclose(wrapped.update(PARAMS, state, PARAMS)[0]["b"], -0.4 * 0.5, rtol=1e-6)


def test_an_lrx_rate_inside_an_injection_goes_before_the_injected_value() -> None:
    rate = linear() * plateau()
    tx = optax.inject_hyperparams(lrx.heavy_ball)(learning_rate=rate, momentum=0.5)
    state = tx.init(PARAMS)
    for _ in range(2):
        _, state = tx.update(PARAMS, state, PARAMS, value=1.0)
    np.testing.assert_allclose(lrx.learning_rate(state), 0.7 * 0.5, rtol=1e-6)
    assert "reduce_on_plateau/best_value" in lrx.monitor(state)


# --- accumulating and skipping ------------------------------------------------------------------------------------


def test_after_an_accumulating_call_the_rate_is_the_last_applied_one() -> None:
    tx = optax.MultiSteps(lrx.sgd(linear()), every_k_schedule=2)
    state, seen, update = tx.init(PARAMS), [], jax.jit(tx.update)
    for _ in range(6):
        _, state = update(PARAMS, state, PARAMS)
        seen.append(round(float(lrx.learning_rate(state)), 6))
    assert seen == [0.8, 0.8, 0.8, 0.7, 0.7, 0.6]


def test_after_a_skipped_call_the_rate_is_the_last_applied_one() -> None:
    tx = optax.apply_if_finite(lrx.sgd(linear() * plateau(feedback="observed")), max_consecutive_errors=10)
    state, seen, update = tx.init(PARAMS), [], jax.jit(tx.update)
    bad = jax.tree.map(lambda leaf: leaf * jnp.nan, PARAMS)
    for grads in (PARAMS, PARAMS, bad, bad, PARAMS):
        _, state = update(grads, state, PARAMS)
        seen.append(round(float(lrx.learning_rate(state)), 6))
    assert seen == [0.8, 0.7, 0.7, 0.7, 0.6]
    state = lrx.observe(state, value=1.0)
    _, state = update(bad, state, PARAMS)  # skipped: the observation waits
    assert bool(optax.tree.get(state, "pending"))
    assert float(lrx.monitor(state)["reduce_on_plateau/best_value"]) == 1.0  # what it means is read at once
    _, state = update(PARAMS, state, PARAMS)
    assert not bool(optax.tree.get(state, "pending"))
    assert float(lrx.monitor(state)["reduce_on_plateau/best_value"]) == 1.0


def test_value_reaches_controllers_through_multisteps_and_is_observed_where_a_chain_drops_it() -> None:
    direct = optax.MultiSteps(lrx.sgd(0.8 * plateau()), every_k_schedule=2)
    state, update = direct.init(PARAMS), jax.jit(direct.update)
    for _ in range(4):
        _, state = update(PARAMS, state, PARAMS, value=1.0)
    np.testing.assert_allclose(lrx.learning_rate(state), 0.4, rtol=1e-6)

    def chained(**arguments: Any) -> Any:
        inner = optax.MultiSteps(lrx.sgd(0.8 * plateau(**arguments)), 2).gradient_transformation()
        return optax.chain(optax.clip_by_global_norm(1e6), inner)

    dropped = chained()
    with pytest.raises(
        ValueError, match=r'needs the loss.*drops it, build reduce_on_plateau\(..., feedback="observed"\)'
    ):
        dropped.update(PARAMS, dropped.init(PARAMS), PARAMS, value=1.0)
    tx = chained(feedback="observed")
    state, seen, update = tx.init(PARAMS), [], jax.jit(tx.update)
    for call in range(8):
        if call in (1, 4):  # one before an applied update, one before an accumulating call
            state = lrx.observe(state, value=1.0)
        _, state = update(PARAMS, state, PARAMS, value=3.0)
        seen.append(round(float(lrx.learning_rate(state)), 6))
    assert seen == [0.8, 0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4]  # consumed exactly once, by an applied update


# --- checkpoints --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lrx", "inject optax", "partition", "constant"])
def test_a_scaling_survives_an_orbax_checkpoint(name: str, tmp_path: Path) -> None:
    import orbax.checkpoint as ocp

    # A constant rate has the state tree of a scheduled one: the checkpoint of one goes into the other.
    tx = lrx.sgd(0.1) if name == "constant" else WRAPPERS[name](linear())
    after = lrx.sgd(linear()) if name == "constant" else tx
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    state = lrx.scale_learning_rate(state, 0.5)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", after.init(PARAMS))
    assert jax.tree.structure(restored) == jax.tree.structure(after.init(PARAMS))
    _, restored = after.update(PARAMS, restored, PARAMS)
    (rate,) = lrx.learning_rates(restored).values()
    np.testing.assert_allclose(rate, 0.5 * 0.7, rtol=1e-6)
