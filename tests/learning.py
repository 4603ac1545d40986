"""Train a workload for a few steps in one small program: whether its parts fit together, and anything is learnt."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.training import Workload
from lrx.training.sampling import keys_of


class Learnt(NamedTuple):
    """The evaluations at the initial parameters and after the steps, and the losses of the steps."""

    before: dict[str, Any]
    after: dict[str, Any]
    losses: np.ndarray


def learn(workload: Workload, rate: float, steps: int) -> Learnt:
    """Train with Adam on the minibatches of seed 0, the same ones in each epoch."""
    tx, sampling = optax.adam(rate), workload.batches.sampling
    assert workload.evaluate is not None
    evaluate = workload.evaluate

    @jax.jit
    def run(arrays: Any) -> Learnt:
        keys = keys_of(0)
        params, model_state = workload.init(keys.init)
        order = sampling.permutation(arrays, keys.shuffle, jnp.int32(0))

        def step(carry: Any, count: jax.Array) -> tuple[Any, jax.Array]:
            params, model_state, state = carry
            batch, key = sampling.draw(arrays, order, keys.step, count)
            slope = jax.value_and_grad(workload.loss_fn, has_aux=True)
            (loss, model_state), gradients = slope(params, model_state, batch, key)
            updates, state = tx.update(gradients, state)
            return (optax.apply_updates(params, updates), model_state, state), loss

        carry, losses = jax.lax.scan(step, (params, model_state, tx.init(params)), jnp.arange(steps))
        evaluations = jax.lax.map(
            lambda point: evaluate(*point),
            jax.tree.map(lambda *points: jnp.stack(points), (params, model_state), carry[:2]),
        )
        before, after = (jax.tree.map(lambda x, place=place: x[place], evaluations) for place in (0, 1))
        return Learnt(before, after, losses)

    return jax.device_get(run(workload.batches.arrays))
