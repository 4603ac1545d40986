"""How a loss that does not pass through `update` reaches a controller: copied, addressed, taken once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lrx
from lrx.reading import listeners
from lrx.states import Observation

PARAMS = {"w": jnp.ones(3), "b": jnp.ones([])}
GRADS = {"w": jnp.full(3, 0.1), "b": jnp.full([], 0.1)}
LABELS = {"w": "body", "b": "head"}


def plateau(**arguments: Any) -> Any:
    return lrx.reduce_on_plateau(**{"factor": 0.5, "patience": 0, "feedback": "observed", **arguments})


def stopping(**arguments: Any) -> Any:
    return lrx.early_stopping(**{"patience": 9, "feedback": "observed", **arguments})


PRODUCTS: dict[str, Callable[[], Any]] = {
    "two controllers": lambda: lrx.sgd(0.1 * plateau() * stopping()),
    "two of one method": lambda: lrx.sgd(0.1 * plateau() * plateau(patience=3)),
    "all that follow a loss": lambda: lrx.heavy_ball(
        0.1
        * plateau()
        * stopping()
        * lrx.greedy(feedback="observed")
        * lrx.pid(feedback="observed")
        * lrx.relative_adaptation(feedback="observed")
    ),
    "rollback around controllers": lambda: lrx.rollback_on_divergence(lrx.adam(0.1 * plateau() * stopping())),
    "rollback by observation": lambda: lrx.rollback_on_divergence(
        lrx.sgd(0.1 * plateau() * stopping()), feedback="observed"
    ),
    "warmup_until": lambda: lrx.sgd(
        lrx.warmup_until(0.1 * plateau() * stopping(), warmup_value=0.01, threshold=9.0, feedback="observed")
    ),
    "momo": lambda: lrx.momo(1.0 * plateau() * stopping(), feedback="observed"),
    "momo_adam": lambda: lrx.momo_adam(0.1 * stopping(), feedback="observed"),
    "polyak": lambda: lrx.sgd(lrx.polyak(feedback="observed") * plateau() * stopping()),
    "links of a chain": lambda: optax.chain(plateau(), stopping(), lrx.sgd(0.1)),
    "groups": lambda: optax.partition({"body": lrx.sgd(0.1 * plateau()), "head": lrx.sgd(0.1 * plateau())}, LABELS),
    "accumulation": lambda: lrx.accumulate(lrx.sgd(0.1 * plateau() * stopping()), 2),
}
WRITES = {
    "a Python float": lambda state, loss: lrx.observe(state, value=float(loss)),
    "an array": lambda state, loss: lrx.observe(state, value=loss),
    "a NumPy number": lambda state, loss: lrx.observe(state, value=np.float32(loss)),
    "compiled": jax.jit(lambda state, loss: lrx.observe(state, value=loss)),
}


def buffers(tree: Any) -> list[int]:
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree) if leaf.size]


@pytest.mark.parametrize("make", PRODUCTS.values(), ids=PRODUCTS)
def test_any_product_of_controllers_can_be_observed_and_donated(make: Callable[[], Any]) -> None:
    tx = make()

    def step(state: Any, params: Any) -> Any:
        return tx.update(GRADS, state, params, value=1.0)[1]

    donating = jax.jit(step, donate_argnums=0, keep_unused=True)
    for write in WRITES.values():
        state, loss = tx.init(PARAMS), jnp.float32(1.0)
        for _ in range(2):
            state = write(state, loss)
            assert len(set(buffers((state, loss, PARAMS)))) == len(buffers((state, loss, PARAMS)))
            state = donating(state, PARAMS)
        assert float(loss) == 1.0


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_an_observed_array_outlives_the_donated_step(write: Callable[..., Any]) -> None:
    tx = lrx.sgd(0.1 * plateau())
    step = jax.jit(lambda state: tx.update(GRADS, state)[1], donate_argnums=0)
    loss = jnp.float32(3.0)
    state = step(write(tx.init(PARAMS), loss))
    assert float(loss) == 3.0
    assert float(lrx.monitor(state)["reduce_on_plateau/best_value"]) == 3.0


def test_an_observation_reaches_the_controllers_that_are_built_for_it_and_no_others() -> None:
    tx = lrx.sgd(0.1 * lrx.reduce_on_plateau(patience=5) * stopping(mode="max", patience=3))
    state = tx.init(PARAMS)
    for step in range(60):
        if step % 10 == 0:
            state = lrx.observe(state, value=0.5 + step / 200)  # an accuracy, which rises
        _, state = tx.update(GRADS, state, PARAMS, value=1.0 / (1 + step))  # a loss, which falls
    report = lrx.monitor(state)
    assert float(report["learning_rate"]) == np.float32(0.1)
    assert float(report["reduce_on_plateau/best_value"]) == np.float32(1.0 / 60)
    assert float(report["early_stopping/best_value"]) == np.float32(0.75)


def test_a_controller_that_gets_its_loss_with_the_update_keeps_no_observation() -> None:
    made = (lrx.sgd(0.1 * lrx.reduce_on_plateau()), lrx.momo(), lrx.rollback_on_divergence(lrx.sgd(0.1)), lrx.polyak())
    for tx in (*made, lrx.warmup_until(0.1, warmup_value=0.01, threshold=0.5)):
        state = tx.init(PARAMS)
        nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, Observation))
        assert not any(isinstance(node, Observation) for node in nodes)
        assert listeners(state) == ()


def test_one_of_several_is_addressed_by_the_name_that_monitor_shows() -> None:
    tx = lrx.sgd(0.1 * plateau() * stopping(mode="max") * plateau(mode="max"))
    state = tx.init(PARAMS)
    names = ("reduce_on_plateau", "early_stopping", "reduce_on_plateau_2")
    assert listeners(state) == names
    assert all(f"{name}/observations" in lrx.monitor(state) for name in names)
    state = lrx.observe(state, value=4.0, to="reduce_on_plateau")
    state = lrx.observe(state, value=0.5, to=["early_stopping", "reduce_on_plateau_2"])
    report = lrx.monitor(tx.update(GRADS, state)[1])
    assert [float(report[f"{name}/best_value"]) for name in names] == [4.0, 0.5, 0.5]
    assert [int(report[f"{name}/observations"]) for name in names] == [1, 1, 1]


def test_a_controller_in_a_group_is_addressed_behind_its_groups_name() -> None:
    tx = optax.partition({"body": lrx.sgd(0.1 * plateau()), "head": lrx.sgd(0.1 * plateau())}, LABELS)
    state = tx.init(PARAMS)
    assert listeners(state) == ("body/reduce_on_plateau", "head/reduce_on_plateau")
    _, state = tx.update(GRADS, lrx.observe(state, value=2.0, to="head/reduce_on_plateau"))
    report = lrx.monitor(state)
    assert float(report["head/reduce_on_plateau/best_value"]) == 2.0
    assert np.isinf(float(report["body/reduce_on_plateau/best_value"]))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: lrx.momo(feedback="observed"), "momo"),
        (lambda: lrx.sgd(lrx.polyak(feedback="observed")), "polyak"),
        (lambda: lrx.rollback_on_divergence(lrx.sgd(0.1), feedback="observed"), "rollback"),
        (lambda: lrx.warmup_until(0.1, warmup_value=0.01, threshold=0.5, feedback="observed"), "warmup_until"),
    ],
)
def test_all_that_takes_observations_has_a_name_and_counts_them(make: Callable[[], Any], name: str) -> None:
    state = make().init(PARAMS)
    assert listeners(state) == (name,)
    assert int(lrx.monitor(state)[f"{name}/observations"]) == 0
    assert int(lrx.monitor(lrx.observe(state, value=1.0, to=name))[f"{name}/observations"]) == 1


@pytest.mark.parametrize("to", ["early_stoping", ["early_stopping", "pid"], [], "reduce_on_plateau"])
def test_a_name_that_takes_no_observations_is_refused_with_those_that_do(to: Any) -> None:
    state = lrx.sgd(0.1 * lrx.reduce_on_plateau() * stopping()).init(PARAMS)
    with pytest.raises(ValueError, match=r"to must name what takes observations, \['early_stopping'\] in this state"):
        lrx.observe(state, value=1.0, to=to)


def test_a_state_made_for_the_other_kind_of_feedback_is_refused() -> None:
    observed, valued = lrx.sgd(0.1 * plateau()), lrx.sgd(0.1 * plateau(feedback="value"))
    with pytest.raises(ValueError, match=r"feedback must be what the state was made with, got feedback='observed'"):
        observed.update(GRADS, valued.init(PARAMS))
    with pytest.raises(ValueError, match=r"feedback must be what the state was made with, got feedback='value'"):
        valued.update(GRADS, observed.init(PARAMS), value=1.0)


def test_what_is_kept_for_a_rollback_is_not_told_what_is_observed_later() -> None:
    tx = lrx.rollback_on_divergence(lrx.sgd(0.1 * plateau()))
    state = tx.init(PARAMS)
    _, state = tx.update(GRADS, lrx.observe(state, value=7.0), PARAMS, value=jnp.inf)
    assert bool(state.rolled_back)
    # The observation belongs to the parameters that were given up.
    assert int(lrx.monitor(state)["reduce_on_plateau/observations"]) == 0
    _, state = tx.update(GRADS, state, PARAMS, value=1.0)
    assert np.isinf(float(lrx.monitor(state)["reduce_on_plateau/best_value"]))
