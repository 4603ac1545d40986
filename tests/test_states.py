"""What states say by methods, and how they print."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES, Case, all_states
from flax import nnx
from foreign_states import cooling, fixed_rate, lagging, patience, retreating

import lrx
from lrx.run_state import can_stop, tracks_best
from lrx.states import Snapshot
from lrx.training import Batches, DivergenceError, History, Workload, train

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
GRADS = {"w": jnp.array([0.3, -0.7]), "b": jnp.array(2.0)}


def test_a_state_of_ones_own_is_read_shown_and_stops() -> None:
    tx = cooling(optax.chain(optax.scale_by_adam(), fixed_rate(0.5)))
    state = tx.init(PARAMS)
    assert float(lrx.learning_rate(state)) == 0.5
    for step in range(3):
        assert not lrx.stopped(state)
        _, state = tx.update(GRADS, state, PARAMS)
        assert float(lrx.learning_rate(state)) == 0.5 * 0.5**step
        assert lrx.monitor(state, scalars=True) == {"learning_rate": 0.5 * 0.5**step, "gain": 0.5**step}
    assert lrx.stopped(state)
    with pytest.raises(ValueError, match="2 learning rates on the path"):
        lrx.learning_rate(optax.chain(fixed_rate(0.5), lrx.sgd(0.1)).init(PARAMS))


def test_a_rate_within_a_state_of_ones_own_is_read_and_changed() -> None:
    tx = cooling(lrx.sgd(0.8))
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    _, state = tx.update(GRADS, lrx.scale_learning_rate(state, 0.5), PARAMS)
    assert float(lrx.learning_rate(state)) == np.float32(0.2)
    with pytest.raises(ValueError, match="holds no learning rate that could be scaled"):
        lrx.scale_learning_rate(fixed_rate(0.5).init(PARAMS), 0.5)


def test_a_field_with_the_name_of_a_method_says_nothing() -> None:
    """`adamw` keeps a field `rate`, which is a state and no method."""
    state = lrx.adamw(0.1).init(PARAMS)
    assert not callable(state.rate)
    assert float(lrx.learning_rate(state)) == np.float32(0.1)


# --- what a training loop asks, of states that are not lrx's ---------------------------------------------------------


def line(evaluate: Any = None) -> Workload:
    x = jnp.linspace(-1.0, 1.0, 64)
    return Workload.from_functions(
        lambda slope, batch, key: jnp.mean((slope * batch - 3.0 * batch) ** 2),
        lambda key: jax.random.uniform(key),
        Batches(x, batch_size=16),
        **({"evaluate": evaluate} if evaluate else {}),
    )


def speaking(stops: Any = False, shown: Any = None) -> optax.GradientTransformation:
    """Descend, with a state that returns these."""

    class Mine(NamedTuple):
        count: jax.Array

        def stops(self) -> Any:
            return stops(self.count) if callable(stops) else stops

        def shown(self) -> Any:
            return {} if shown is None else shown

    mine = optax.GradientTransformation(
        lambda params: Mine(jnp.zeros([], jnp.int32)), lambda updates, state, params=None: (updates, Mine(state[0] + 1))
    )
    return optax.chain(mine, lrx.sgd(0.1))


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"stops": lambda count: jnp.arange(3) < count}, r"Mine\.stops\(\) must .*, \(\) bool, got bool\[3\]"),
        ({"stops": lambda count: [count > 3]}, r"Mine\.stops\(\) must .*, got \[bool\[\]\]: return one"),
        ({"stops": lambda count: None}, r"Mine\.stops\(\) must .*, got None"),
        ({"stops": "no"}, r"Mine\.stops\(\) must .*, got 'no'"),
        ({"shown": {"norms": np.ones((2, 3))}}, r"Mine\.shown\(\) must .*, got 'norms': float64\[2,3\]\. Show"),
        ({"shown": {"name": "fast"}}, r"Mine\.shown\(\) must .*, got 'name': 'fast'"),
        ({"shown": {"key": jax.random.key(0)}}, r"Mine\.shown\(\) must .*, got 'key': key<fry>\[\]"),
        ({"shown": {1: 0.5}}, r"Mine\.shown\(\) must return a dict of name to scalar, got \{1: 0.5\}"),
        ({"shown": [0.5]}, r"Mine\.shown\(\) must return a dict of name to scalar, got \[0.5\]"),
    ],
)  # fmt: skip
def test_what_a_state_of_ones_own_returns_wrongly_is_named_before_a_run(said: dict[str, Any], error: str) -> None:
    with pytest.raises(TypeError, match=error):
        train(line(), speaking(**said), steps=3)
    with pytest.raises(TypeError, match=error):
        lrx.sweep(
            line(), lambda scale: optax.chain(optax.scale(scale), speaking(**said)), {"scale": [1.0]}, num_steps=3
        )


def test_a_state_of_ones_own_may_return_numbers_of_python() -> None:
    history = train(line(), speaking(stops=False, shown={"half": 0.5, "on": True, "n": np.float64(3)}), steps=3)
    assert history.ended == "complete"
    assert [history.metrics[name].tolist() for name in ("half", "on", "n")] == [[0.5] * 3, [True] * 3, [3.0] * 3]
    assert train(line(), speaking(stops=True), steps=3).ended == "stopped"


RISING = {0: 0.1, 10: 0.1, 11: 20.0}  # the run diverges after its tenth step


@functools.cache
def stopped_run() -> History:
    return train(line(), lrx.sgd(lrx.interpolate(RISING) * patience(2)), steps=30)


def test_a_controller_of_ones_own_ends_a_run_and_is_shown() -> None:
    history = stopped_run()
    assert bool(lrx.stopped(history.opt_state))
    assert 10 < len(history.loss) < 20
    report = lrx.monitor(history.opt_state, scalars=True)
    assert report["patience/waited"] == 3
    assert report["patience/best"] == pytest.approx(np.min(history.loss), rel=1e-6)
    assert report["patience/factor"] == 0.0
    assert repr(0.1 * patience(2)) == "0.1 * patience(2)"


def test_a_controller_of_ones_own_tells_the_best_parameters_of_a_run() -> None:
    best = stopped_run().best
    assert best is not None
    assert best.step == np.argmin(stopped_run().loss)
    stopping = lrx.early_stopping(patience=2, accumulation_size=1)
    own = train(line(), lrx.sgd(lrx.interpolate(RISING) * stopping), steps=30)
    np.testing.assert_array_equal(best.params, own.best.params)
    np.testing.assert_array_equal(stopped_run().loss, own.loss)


def test_an_observation_is_judged_by_a_memory_of_ones_own_before_an_update_takes_it() -> None:
    tx = lrx.sgd(0.1 * patience(0, feedback="observed"))
    state = lrx.observe(tx.init(PARAMS), value=1.0)
    assert not lrx.stopped(state)
    _, state = tx.update(GRADS, state)
    state = lrx.observe(state, value=2.0)
    assert lrx.stopped(state)
    assert lrx.monitor(state, scalars=True)["patience/waited"] == 1


def test_whether_a_run_can_stop_is_known_of_a_planned_state() -> None:
    rate = 0.1 * lrx.early_stopping(feedback="observed")
    planned = jax.eval_shape(lrx.sgd(rate).init, PARAMS)
    assert can_stop(planned)
    assert tracks_best(planned)
    assert not can_stop(jax.eval_shape(lrx.sgd(0.1).init, PARAMS))


def test_a_state_of_ones_own_says_where_a_run_is_evaluated() -> None:
    workload = line(lambda slope: {"slope": slope})
    history = train(workload, lagging(lrx.sgd(0.1)), epochs=2)
    before = train(line(), lrx.sgd(0.1), steps=7).params
    assert history.params != before
    np.testing.assert_array_equal(history.evaluations["slope"][-1], before)
    np.testing.assert_array_equal(lrx.eval_params(history.opt_state, history.params), before)


def test_a_transformation_of_ones_own_takes_a_diverging_run_back() -> None:
    # At a finite loss one step leads out of the range of numbers; the next is taken back, at half the rate.
    history = train(line(), retreating(lrx.sgd(1e38)), steps=6)
    np.testing.assert_array_equal(np.isfinite(history.loss), [True, False] * 3)
    np.testing.assert_array_equal(history.params, history.opt_state.kept)
    assert float(lrx.learning_rate(history.opt_state)) == pytest.approx(0.25e38)
    with pytest.raises(DivergenceError):
        train(line(), lrx.sgd(1e38), steps=6)


def test_optax_s_schedule_free_optimizers_are_evaluated_at_their_average() -> None:
    tx = optax.contrib.schedule_free_sgd(0.1)
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(3):
        updates, state = tx.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    points = lrx.eval_params(state, params), optax.contrib.schedule_free_eval_params(state, params)
    jax.tree.map(np.testing.assert_array_equal, *points)
    assert not np.array_equal(points[0]["w"], params["w"])


# --- how states print ----------------------------------------------------------------------------------------------


def test_a_state_prints_scalars_as_numbers_and_arrays_by_type_and_shape() -> None:
    tx = lrx.adam(0.1)
    _, state = tx.update({"w": jnp.ones(3)}, tx.init({"w": jnp.zeros(3)}))
    adam, rate = map(repr, state)
    assert adam == (
        "AdamState(count=1, b1=0.9, b2=0.999, first_weight=0.1, second_weight=0.001, eps=1e-08, eps_root=0.0, "
        "first_moment={'w': float32[3]}, second_moment={'w': float32[3]})"
    )
    assert rate == "RateState(count=1, step=1, learning_rate=0.1, unscaled=0.1, scale=1.0, memories=((),))"
    traced: list[str] = []
    jax.jit(lambda state: traced.append(repr(state)))(state)
    assert "RateState(count=int32[], step=int32[], learning_rate=float32[]" in traced[0]


def _with_no_arrays_written_out(text: str) -> None:
    assert "Array(" not in text
    assert "array(" not in text
    assert "\n" not in text


@all_states
def test_every_state_prints_in_a_few_lines(case: Case) -> None:
    tx = case()
    _with_no_arrays_written_out(repr(tx.init(PARAMS)))
    assert len(repr(tx.init(PARAMS))) < 1200
    # Of a wide tree no more than of a small one, traced or planned.
    wide = {f"layer_{i}": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)} for i in range(60)}
    planned = jax.eval_shape(tx.init, wide)
    _with_no_arrays_written_out(repr(planned))
    assert len(repr(planned)) < 1600


def test_states_print_after_donation_and_within_snapshots() -> None:
    state = lrx.sgd(0.1).init(PARAMS)
    jax.tree.map(lambda leaf: leaf.delete(), state)
    assert "learning_rate=float32[]" in repr(state)
    assert repr(Snapshot(PARAMS, ())) == "Snapshot(...)"
    batched = jax.vmap(lambda rate: lrx.sgd(rate).init(PARAMS))(jnp.arange(1.0, 4.0))
    assert "learning_rate=float32[3]" in repr(batched)
    assert len(CASES) > 80


def test_states_within_an_nnx_optimizer_print_their_numbers() -> None:
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, lrx.adam(0.1), wrt=nnx.Param)
    text = repr(optimizer.opt_state)
    assert "AdamState(count=0, b1=0.9" in text
    assert "first_moment={'bias': float32[3], 'kernel': float32[2,3]}" in text


def test_a_state_that_shows_something_else_than_names_is_named():
    class ListState(NamedTuple):
        norm: jax.Array

        def shown(self) -> Any:
            return [self.norm]

    with pytest.raises(TypeError, match=r"ListState.shown\(\) must return a dict of name to scalar"):
        lrx.monitor((lrx.sgd(0.1).init(jnp.ones(2)), ListState(jnp.zeros(()))))
