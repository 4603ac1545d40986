"""A trained perceptron that learns other images or other classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.training import Workload
from lrx.workloads._network import Network
from lrx.workloads.dense import perceptron
from lrx.workloads.supervised import Examples, cross_entropy, make_supervised_workload

STEPS, BATCH_SIZE, RATE = 600, 64, 3e-3  # of the training before


def make_fine_tuning_workload(
    name: str,
    before: Examples,
    train: Examples,
    test: Examples,
    *,
    hidden: Sequence[int] = (32, 32),
    batch_size: int = 16,
) -> Workload:
    """Build the workload of training all layers of a perceptron that was trained on something else.

    The first training is done here, by Adam with one seed; the last layer of every run begins at 0.

    Args:
      name: name of the workload.
      before: (n, pixels) float32 images and labels on which the perceptron is trained first.
      train: those of the workload itself, with labels from 0.
      test: those that `evaluate` measures.
      hidden: widths of the hidden layers.
      batch_size: examples in a minibatch.
    """
    first = perceptron((before[0].shape[1], *hidden, int(before[1].max()) + 1))
    network = perceptron((train[0].shape[1], *hidden, int(train[1].max()) + 1), zero_output=True)
    trained = [jax.tree.map(np.asarray, layer) for layer in _train(first, before)[:-1]]

    def init(key: jax.Array) -> Any:
        # The key decides the order of the minibatches only: a run of another seed begins at the same point.
        return [*jax.tree.map(jnp.asarray, trained), network.init(key)[-1]]

    tuned = Network(init, network.apply)
    return make_supervised_workload(name, tuned, train, test, cross_entropy, batch_size=batch_size)


def classes(examples: Examples, first: int, last: int) -> Examples:
    """Return the examples of the classes `first` to `last`, which become 0, 1, ..."""
    inputs, labels = examples
    kept = (labels >= first) & (labels <= last)
    return inputs[kept], labels[kept] - first


def _train(network: Network, examples: Examples) -> Any:
    tx = optax.adam(RATE)

    @jax.jit
    def train(key: jax.Array, images: jax.Array, labels: jax.Array) -> Any:
        start, drawing = jax.random.split(key)
        params = network.init(start)
        places = jax.random.randint(drawing, (STEPS, BATCH_SIZE), 0, len(labels))

        def loss(params: Any, chosen: jax.Array) -> jax.Array:
            return cross_entropy(network.apply(params, images[chosen]), labels[chosen])["loss"]

        def step(state: Any, chosen: jax.Array) -> tuple[Any, None]:
            params, opt_state = state
            updates, opt_state = tx.update(jax.grad(loss)(params, chosen), opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        return jax.lax.scan(step, (params, tx.init(params)), places)[0][0]

    return train(jax.random.key(0), *examples)
