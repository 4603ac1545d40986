"""A second call of a tool on an equal workload with an equal factory of optimizers compiles and traces nothing."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import COMPILED, TRACED, Counter, counting
from tiers import first_tier_has

import lrx
from lrx.training import Batches, Evaluation, Workload
from lrx.tuning import Method

LOOKS = {"look", "_look_for_rounds", "_make", "<lambda>"}  # at the structure of a state: no loss and no update


@pytest.fixture
def counter() -> Iterator[Counter]:
    with counting() as found:
        yield found


def line() -> Workload:
    """Return a workload whose data and functions are new at each call."""
    x = np.linspace(-1.0, 1.0, 64, dtype=np.float32)

    def loss_fn(slope: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
        return jnp.mean((slope * batch[0] - batch[1] + 0.01 * jax.random.normal(key)) ** 2)

    evaluate = Evaluation(lambda slope, held_out: {"error": jnp.mean((slope * held_out - 3.0 * held_out) ** 2)}, x)
    return Workload.from_functions(
        loss_fn, lambda key: jax.random.normal(key), Batches((x, 3.0 * x), 16), evaluate=evaluate
    )


def methods() -> dict[str, Method]:
    return {
        "sgd": Method(lambda rate, num_steps: lrx.sgd(lrx.linear_decay(rate, num_steps)), range_test_of=lrx.sgd),
        "adam": Method(lambda rate, num_steps: lrx.adam(rate), range_test_of=lambda rate: optax.adam(rate)),
    }


TOOLS: dict[str, Callable[[], Any]] = {
    "train": lambda: lrx.train(line(), optax.chain(optax.clip(1.0), lrx.sgd(0.1)), steps=10),
    "sweep": lambda: lrx.sweep(
        line(), lambda lr: optax.sgd(lr, momentum=0.9), {"lr": [0.01, 0.1, 0.3]}, num_steps=12, seeds=2
    ),
    "range_test": lambda: lrx.range_test(line(), tx=lambda rate: lrx.sgd(rate), num_steps=30),
    "successive_halving": lambda: lrx.successive_halving(
        line(), lambda lr: lrx.sgd(lr), {"lr": [0.001, 0.01, 0.1]}, num_steps=9
    ),
    "halve_until_trains": lambda: lrx.halve_until_trains(line(), tx=lrx.sgd, start_rate=8.0, num_steps=20),
    "select": lambda: lrx.select(line(), num_steps=100, budget=8, portfolio=methods()),
}


@pytest.mark.parametrize("tool", first_tier_has(["train", "sweep", "range_test"], TOOLS))
def test_a_second_equal_call_compiles_nothing(tool, counter):
    TOOLS[tool]()
    assert counter.names(COMPILED) or counter.names(TRACED)  # the counter counts
    counter.events.clear()
    TOOLS[tool]()
    assert counter.names(COMPILED) == []
    assert set(counter.names(TRACED)) <= LOOKS


@pytest.mark.slow
def test_another_constant_in_the_factory_compiles_again(counter):
    def swept(momentum: float) -> Any:
        return lrx.sweep(
            line(),
            lambda lr: lrx.sgd(lr, momentum=momentum),
            {"lr": [0.01, 0.1]},
            num_steps=12,
        )

    found = swept(0.5)
    counter.events.clear()
    other = swept(0.6)
    assert counter.names(COMPILED)
    assert not np.array_equal(found.final_loss, other.final_loss)


def test_another_rate_within_a_chain_is_trained_with():
    for rate in (lrx.constant(0.1), lrx.constant(0.2), lrx.linear_decay(0.1, 10)):
        history = lrx.train(line(), optax.chain(optax.clip(1.0), lrx.sgd(rate)), steps=10)
        np.testing.assert_allclose(history.rate, rate(np.arange(10)), rtol=1e-6)


class Settings:
    """A mutable object of the user's own; only inspection shows what it holds."""

    momentum = 0.5


def test_a_factory_that_cannot_be_compared_is_traced_and_a_change_is_never_missed(counter):
    settings = Settings()

    def swept() -> Any:
        return lrx.sweep(line(), lambda lr: lrx.sgd(lr, momentum=settings.momentum), {"lr": [0.01, 0.1]}, num_steps=12)

    found = swept()
    counter.events.clear()
    swept()
    assert counter.names(COMPILED) == []
    settings.momentum = 0.6
    assert not np.array_equal(found.final_loss, swept().final_loss)


def test_programs_keep_no_data_alive():
    workload = line()
    data = weakref.ref(workload.batches.arrays[0])
    lrx.sweep(workload, lambda lr: lrx.sgd(lr), {"lr": [0.01, 0.1]}, num_steps=12)
    lrx.train(workload, lrx.sgd(0.1), steps=3)
    del workload
    gc.collect()
    assert data() is None


def test_other_data_of_the_same_shapes_share_the_programs(counter):
    def swept(scale: float) -> Any:
        workload = line()
        x = np.linspace(-1.0, 1.0, 64, dtype=np.float32)
        workload = Workload("line", workload.init, workload.loss_fn, Batches((x, scale * x), 16))
        return lrx.sweep(workload, lrx.sgd, {"learning_rate": [0.01, 0.1]}, num_steps=12)

    found = swept(3.0)
    counter.events.clear()
    other = swept(2.0)
    assert counter.names(COMPILED) == []
    assert not np.array_equal(found.final_loss, other.final_loss)
