"""How a loss that does not pass through `update` reaches a controller: copied, addressed, taken once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tiers import first_tier_has

import lrx
from lrx.run_state import improved, listeners
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


# Each is two programs; the first tier has those whose states hold a state within.
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            make, id=label, marks=[] if label.startswith(("rollback around", "groups")) else [pytest.mark.slow]
        )
        for label, make in PRODUCTS.items()
    ],
)
def test_any_product_of_controllers_can_be_observed_and_donated(make: Callable[[], Any]) -> None:
    tx = make()

    def step(state: Any, params: Any) -> Any:
        return tx.update(GRADS, state, params, value=1.0)[1]

    donating = jax.jit(step, donate_argnums=0, keep_unused=True)
    for write in WRITES.values():
        state, loss = tx.init(PARAMS), jnp.float32(1.0)
        state = write(state, loss)
        assert len(set(buffers((state, loss, PARAMS)))) == len(buffers((state, loss, PARAMS)))
        donating(state, PARAMS)
        assert float(loss) == 1.0
    # An update outside jit leaves a state that can be donated too.
    eager = step(tx.init(PARAMS), PARAMS)
    assert len(set(buffers((eager, PARAMS)))) == len(buffers((eager, PARAMS)))


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


# ---------------------------------------------------------------------- what an observation means is to be read at once


def test_the_deciding_observation_stops_the_run_at_once() -> None:
    tx = lrx.sgd(0.1 * lrx.early_stopping(patience=1, feedback="observed"))
    state, seen = tx.init(PARAMS), []
    for loss in (1.0, 0.9, 0.95, 0.9):
        state = lrx.observe(state, value=loss)
        report = lrx.monitor(state)
        seen.append(
            (
                bool(lrx.stopped(state)),
                float(report["early_stopping/best_value"]),
                int(report["early_stopping/wait_count"]),
            )
        )
        _, state = tx.update(GRADS, state)
    assert seen == [
        (False, 1.0, 0),
        (False, np.float32(0.9), 0),
        (False, np.float32(0.9), 1),
        (True, np.float32(0.9), 2),
    ]
    assert float(lrx.learning_rate(state)) == 0.0


@pytest.mark.parametrize("kind", ["min", "max"])
def test_what_an_observation_shows_is_what_the_next_update_makes_of_it(kind: str) -> None:
    rate = 0.1 * plateau(mode=kind, cooldown=1, min_scale=0.2) * stopping(mode=kind, patience=3, min_delta=0.1)
    tx = lrx.sgd(rate * plateau(mode=kind, accumulation_size=2))
    update, observe, monitor = jax.jit(tx.update), jax.jit(lrx.observe), jax.jit(lrx.monitor)
    state = tx.init(PARAMS)
    rng = np.random.default_rng(0)
    for step in range(40):
        told = observe(state, value=[1.0, np.nan, np.inf][step % 3 if step > 30 else 0] * rng.normal())
        after = update(GRADS, told)[1]
        shown, then = monitor(told), monitor(after)
        for name in shown:
            # The rate and the factors are those of an update.
            if not name.endswith(("learning_rate", "/factor", "/accumulation_size")):
                np.testing.assert_array_equal(shown[name], then[name], err_msg=name)
        np.testing.assert_array_equal(lrx.stopped(told), lrx.stopped(after))
        state = update(GRADS, after)[1] if step % 2 else after
    assert bool(lrx.stopped(state))


def test_another_patience_takes_a_state_over() -> None:
    losses = [1.0] + [2.0] * 4
    short, long = (lrx.sgd(0.1 * stopping(patience=patience)) for patience in (3, 9))
    state = short.init(PARAMS)
    for loss in losses[:-1]:
        _, state = short.update(GRADS, lrx.observe(state, value=loss))
    told = lrx.observe(state, value=losses[-1])
    assert bool(lrx.stopped(short.update(GRADS, told)[1]))
    assert not bool(lrx.stopped(long.update(GRADS, told)[1]))


def test_the_best_of_a_run_comes_with_the_observation() -> None:
    tx = lrx.sgd(0.1 * stopping())
    state = tx.init(PARAMS)
    for loss, better in ((1.0, True), (2.0, False), (0.5, True)):
        told = lrx.observe(state, value=loss)
        assert bool(improved(state, told)) == better
        _, state = tx.update(GRADS, told)
        assert not bool(improved(told, state))


def test_what_is_pending_is_read_in_nnx_optimizers_and_vmapped_states() -> None:
    tx = lrx.sgd(0.1 * stopping(patience=0))
    told = jax.vmap(lambda loss: lrx.observe(tx.update(GRADS, lrx.observe(tx.init(PARAMS), value=1.0))[1], value=loss))(
        jnp.asarray([0.5, 2.0])
    )
    np.testing.assert_array_equal(lrx.stopped(told), [False, True])
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for loss in (1.0, 2.0):
        optimizer.opt_state = lrx.observe(optimizer.opt_state, value=loss, to="early_stopping")
        seen = bool(lrx.stopped(optimizer)), float(lrx.monitor(optimizer)["early_stopping/best_value"])
        optimizer.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
    assert seen == (True, 1.0)


# ------------------------------------------------------------------------------------------------------- start_after

STARTING: dict[str, tuple[Callable[..., Any], list[float]]] = {
    "reduce_on_plateau": (functools.partial(lrx.reduce_on_plateau, patience=1, accumulation_size=1), [1.0] * 12),
    "early_stopping": (functools.partial(lrx.early_stopping, patience=1, accumulation_size=1), [1.0] * 12),
    "greedy": (functools.partial(lrx.greedy, patience=1), [1.0] * 12),
    "pid": (lrx.pid, list(np.linspace(2.0, 1.0, 12))),
    "relative_adaptation": (lrx.relative_adaptation, [1.0] * 30),
}


@pytest.mark.parametrize("feedback", first_tier_has(["value"], ["value", "observed"]))
@pytest.mark.parametrize("name", STARTING)
def test_before_start_after_nothing_is_judged_and_then_a_controller_begins(name: str, feedback: str) -> None:
    make, losses = STARTING[name]
    late, fresh = make(feedback=feedback, start_after=4), make(feedback=feedback)

    def run(controller: Any, losses: list[float]) -> list[Any]:
        update, state, memories = jax.jit(controller.update), controller.init(None), []
        for loss in losses:
            state = lrx.observe(state, value=loss) if feedback == "observed" else state
            _, state = update((), state, value=loss)
            memories.append((state.latest, state.memories[0].memory))
        return memories

    first, rest = run(late, [9.0, 0.1, 9.0, jnp.nan, *losses]), run(fresh, losses)
    start = fresh.init(None)
    for factor, memory in first[:4]:
        jax.tree.map(np.testing.assert_array_equal, (factor, memory), (start.latest, start.memories[0].memory))
    jax.tree.map(np.testing.assert_array_equal, first[4:], rest)
    assert any(float(factor) != 1 for factor, _ in rest)


def test_a_warm_up_is_not_taken_for_a_plateau() -> None:
    losses = 2.3 * (1 + 0.1 * np.random.default_rng(0).standard_normal(501))

    def rate_at_the_peak(start: int) -> float:
        rate = lrx.warmup(1e-3, 500) * lrx.reduce_on_plateau(
            factor=0.5, patience=5, accumulation_size=10, start_after=start
        )
        body = lambda state, loss: (rate.next_rate(state, value=loss)[1], None)  # noqa: E731
        return float(jax.lax.scan(body, rate.init_rate(), jnp.asarray(losses, jnp.float32))[0].learning_rate)

    assert rate_at_the_peak(0) < 1e-4
    assert rate_at_the_peak(500) == np.float32(1e-3)


def test_directions_before_start_after_are_no_part_of_the_path() -> None:
    late, fresh = lrx.sgd(0.1 * lrx.cumulative_path(start_after=3)), lrx.sgd(0.1 * lrx.cumulative_path())
    state, other = late.init(PARAMS), fresh.init(PARAMS)
    for _ in range(3):
        _, state = late.update(GRADS, state)
    for _ in range(4):
        _, state = late.update(GRADS, state)
        _, other = fresh.update(GRADS, other)
        assert float(lrx.learning_rate(state)) == float(lrx.learning_rate(other))
    assert float(lrx.learning_rate(state)) > 0.1


def test_an_observation_before_start_after_is_not_shown_as_judged() -> None:
    tx = lrx.sgd(0.1 * stopping(patience=0, start_after=2))
    state, seen = tx.init(PARAMS), []
    for loss in (1.0, 2.0, 3.0, 4.0):
        state = lrx.observe(state, value=loss)
        seen.append((bool(lrx.stopped(state)), float(lrx.monitor(state)["early_stopping/best_value"])))
        _, state = tx.update(GRADS, state)
    assert seen == [(False, np.inf), (False, np.inf), (False, 3.0), (True, 3.0)]
