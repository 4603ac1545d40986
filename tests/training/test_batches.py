"""Where minibatches come from: arrays, and minibatches that exist already."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrx
from lrx.training import Batches, Workload, train


def minibatches(number: int = 4) -> list[Any]:
    draws = np.random.default_rng(0).normal(size=(number, 8, 3)).astype(np.float32)
    return [{"x": x, "y": x.sum(axis=1)} for x in draws]


def loss_fn(w: jax.Array, batch: Any, key: jax.Array) -> jax.Array:
    del key
    return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)


def line(batches: Batches) -> Workload:
    return Workload.from_functions(loss_fn, lambda key: jnp.zeros(3), batches)


def test_each_stacked_minibatch_is_a_step_in_order_over_and_over():
    stacked = Batches.stack(iter(minibatches()))
    assert (stacked.steps_per_epoch, stacked.shuffle) == (4, False)
    history = train(line(stacked), lrx.sgd(0.1), steps=9)
    w, losses = np.zeros(3, np.float32), []
    for batch in itertools.islice(itertools.cycle(minibatches()), 9):
        missed = batch["x"] @ w - batch["y"]
        losses.append(np.mean(missed**2))
        w = w - 0.1 * 2 * batch["x"].T @ missed / 8
    np.testing.assert_allclose(history.loss, losses, rtol=1e-4)


def test_stacking_takes_as_many_as_are_asked_for_and_starts_no_backend():
    stacked = Batches.stack(itertools.cycle(minibatches()), num_batches=6)
    assert stacked.steps_per_epoch == 6
    assert isinstance(stacked._on_host["x"], np.ndarray)
    on_device = Batches.stack([jax.device_put(batch) for batch in minibatches()])
    assert isinstance(on_device._on_host["x"], jax.Array)


def test_arrays_are_stacked_already():
    whole = {"x": np.zeros((5, 8, 3)), "y": np.zeros((5, 8))}
    assert Batches.stack(whole).steps_per_epoch == 5
    assert Batches.stack(tuple(whole.values())).num_examples == 5
    assert Batches.stack(np.zeros((1, 8))).steps_per_epoch == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([],), ValueError, "batches must last for 1 steps, but the iterable ended after 0"),
        ((minibatches(), 5), ValueError, "batches must last for 5 steps, but the iterable ended after 4"),
        (([np.zeros(2), np.zeros(1)],), ValueError, "batches must all have the same shapes, got 2 different"),
        ((np.zeros(()),), ValueError, "batches must have one leading axis that counts batches"),
        ((np.zeros((0, 8)),), ValueError, "batches must have one leading axis that counts batches"),
        (((np.zeros(2), np.zeros(3)),), ValueError, "batches must have one leading axis that counts batches"),
        ((None,), TypeError, "batches must be given"),
        ((3,), TypeError, "batches must be a Batches, arrays or an iterable of batches, got batches=3"),
        (("text",), TypeError, "batches must be a Batches, arrays or an iterable of batches"),
        ((Batches(np.zeros(4), 2),), TypeError, "got a Batches, which needs no stacking"),
        ((minibatches(), 0), ValueError, "num_batches must be a whole number"),
    ],
)
def test_what_cannot_be_stacked_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Batches.stack(*arguments)


def test_examples_of_whole_minibatches_are_counted():
    assert Batches.stack(minibatches()).examples_per_step == 8
    assert Batches.stream(lambda: iter(minibatches()), steps_per_epoch=4).examples_per_step == 8
    assert Batches(np.zeros((10, 3)), 2).examples_per_step == 2
    assert Batches(np.zeros((10, 3, 3)), 2).holds_images
    assert not Batches.stack(minibatches()).holds_images
    assert Batches.stack(np.zeros((4, 8, 3, 3))).holds_images
