"""The optimizers of flax and the models of equinox: read, scaled, given observations and trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from state_examples import GRADS, PARAMS, linear, plateau

import lrx

# --- flax ---------------------------------------------------------------------------------------------------------


def test_train_state_takes_observed_feedback() -> None:
    tx = lrx.heavy_ball(0.8 * plateau(feedback="observed"))
    train_state = TrainState.create(apply_fn=lambda *_: None, params=PARAMS, tx=tx)

    @jax.jit
    def step(train_state: TrainState) -> TrainState:
        return train_state.apply_gradients(grads=GRADS)

    rates = []
    for call in range(6):
        if call in (0, 2):
            train_state = train_state.replace(opt_state=lrx.observe(train_state.opt_state, value=1.0))
        train_state = step(train_state)
        rates.append(round(float(lrx.learning_rate(train_state)), 6))
    assert rates == [0.8, 0.8, 0.4, 0.4, 0.4, 0.4]
    assert float(lrx.learning_rate(train_state.opt_state)) == np.float32(0.4)
    assert lrx.monitor(train_state).keys() == lrx.monitor(train_state.opt_state).keys()
    with pytest.raises(TypeError, match=r"got a TrainState: give it x.opt_state.*x.replace\(opt_state=...\)"):
        lrx.observe(train_state, value=1.0)
    refused = TrainState.create(apply_fn=lambda *_: None, params=PARAMS, tx=lrx.heavy_ball(0.8 * plateau()))
    with pytest.raises(ValueError, match=r"needs the loss.*lrx.observe"):
        refused.apply_gradients(grads=PARAMS)


class Line(nnx.Module):
    """A model of two parameters."""

    def __init__(self) -> None:
        self.slope = nnx.Param(jnp.array([1.0, -2.0]))
        self.offset = nnx.Param(jnp.array(0.5))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.slope[...] * x + self.offset[...]


NNX: dict[str, Callable[[], Any]] = {
    "schedule": linear,
    "sgd": lambda: lrx.sgd(linear()),
    "adam": lambda: lrx.adam(linear() * plateau(patience=100)),
    "heavy_ball": lambda: lrx.heavy_ball(linear()),
    "inject": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=linear()),
    "partition": lambda: optax.partition({"all": lrx.nesterov(linear())}, lambda p: jax.tree.map(lambda _: "all", p)),
}


@pytest.mark.parametrize("make", NNX.values(), ids=NNX.keys())
def test_an_nnx_optimizer_is_read_and_its_state_scaled(make: Callable[[], Any]) -> None:
    model = Line()
    optimizer = nnx.Optimizer(model, make(), wrt=nnx.Param)

    @nnx.jit
    def step(model: Line, optimizer: nnx.Optimizer) -> None:
        loss, grads = nnx.value_and_grad(lambda m: jnp.mean(m(jnp.ones(2)) ** 2))(model)
        optimizer.update(model, grads, value=loss)

    def read() -> float:
        (rate,) = lrx.learning_rates(optimizer).values()
        (again,) = lrx.learning_rates(optimizer.opt_state).values()
        assert float(rate) == float(again)
        return round(float(rate), 6)

    assert read() == 0.8
    step(model, optimizer)
    step(model, optimizer)
    assert read() == 0.7
    optimizer.opt_state = lrx.scale_learning_rate(optimizer.opt_state, 0.5)
    step(model, optimizer)
    assert read() == 0.3
    assert [key for key in lrx.monitor(optimizer) if "learning_rate" in key] in (
        ["learning_rate"],
        ["learning_rate/all"],
    )
    assert lrx.monitor(optimizer).keys() == lrx.monitor(optimizer.opt_state).keys()
    for write in (lambda s: lrx.scale_learning_rate(s, 0.5), lambda s: lrx.observe(s, value=1.0)):
        with pytest.raises(TypeError, match=r"got a Optimizer: give it x.opt_state.*nnx: x.opt_state = ..."):
            write(optimizer)


def test_an_nnx_optimizer_takes_observations() -> None:
    model = Line()
    optimizer = nnx.Optimizer(model, lrx.sgd(0.8 * plateau(feedback="observed")), wrt=nnx.Param)
    grads = nnx.grad(lambda m: jnp.mean(m(jnp.ones(2)) ** 2))(model)
    for expected in (0.8, 0.4, 0.2):
        optimizer.opt_state = lrx.observe(optimizer.opt_state, value=1.0)
        optimizer.update(model, grads)
        assert float(lrx.learning_rate(optimizer)) == np.float32(expected)
        optimizer.update(model, grads)
        assert float(lrx.learning_rate(optimizer)) == np.float32(expected)


# --- equinox ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_equinox_model_trains() -> None:
    model = eqx.nn.MLP(2, 1, 8, 1, activation=jax.nn.tanh, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (32, 2))
    y = jnp.sin(x[:, :1])

    def loss_of(model: Any) -> jax.Array:
        return jnp.mean((jax.vmap(model)(x) - y) ** 2)

    # Passed as arguments, as equinox code does: the transformation, and a schedule as a link of its own.
    @eqx.filter_jit
    def step(model: Any, state: Any, tx: Any) -> Any:
        loss, grads = eqx.filter_value_and_grad(loss_of)(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_array), value=loss)
        return eqx.apply_updates(model, updates), state, loss

    adam = lrx.adam(lrx.warmup(0.05, 5) * lrx.reduce_on_plateau(patience=20))
    for tx, last_rate in ((adam, 0.05), (lrx.constant(0.1), 0.1)):
        trained, losses = model, []
        state = tx.init(eqx.filter(model, eqx.is_array))
        for _ in range(40):
            trained, state, loss = step(trained, state, tx)
            losses.append(float(loss))
        assert losses[-1] < 0.5 * losses[0]
        np.testing.assert_allclose(lrx.learning_rate(state), last_rate, rtol=1e-6)
