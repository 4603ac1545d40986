"""What a client does in a round: local steps from the server's parameters, on its own examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrx.extra_args import tolerant_update
from lrx.federated.aggregation import is_sound, norm_of
from lrx.run_state import apply_updates, eval_params
from lrx.training.sampling import Sampling


class ClientData(NamedTuple):
    """The examples of a client."""

    indices: jax.Array  # (most examples of a client,) int32, filled up
    size: jax.Array  # () int32


class Draw(NamedTuple):
    """What a client draws its minibatches from in a round."""

    order: jax.Array  # (most examples of a client,) int32: its examples in a random order, filled up
    size: jax.Array  # () int32: how many are its own
    key: jax.Array  # of its steps


class Report(NamedTuple):
    """What a client sends back."""

    change: Any  # like the parameters: the client's minus the server's
    model_state: Any  # after the client's steps
    state: Any  # of the client's optimizer
    start_loss: jax.Array  # () float32, of the server's parameters on the client's first minibatches
    loss: jax.Array  # () float32, mean over the client's steps
    norm: jax.Array  # () float32, of the change
    sound: jax.Array  # () bool: whether all numbers are finite


@dataclasses.dataclass(frozen=True)
class Local:
    """Local training.

    Args:
      loss_fn: as in `Workload`.
      sampling: the batch size and the transform of the workload's batches.
      feedback_batches: minibatches on which the server's parameters are judged before the local steps.
    """

    loss_fn: Callable[..., Any]
    sampling: Sampling
    feedback_batches: int

    def draw(self, data: ClientData, key: jax.Array) -> Draw:
        """Return a client's examples in a random order, with what fills up the array, and the key of its steps."""
        order_key, step_key = jax.random.split(key)
        places = jnp.arange(len(data.indices))
        drawn = jnp.where(places < data.size, jax.random.uniform(order_key, data.indices.shape), 2.0)
        return Draw(data.indices[jnp.argsort(drawn)], data.size, step_key)

    def minibatch(self, arrays: Any, draw: Draw, count: jax.Array) -> tuple[Any, jax.Array]:
        """Return the batch of a local step, over and over through the order, and the key of its loss."""
        transform_key, loss_key = self.sampling.keys_of_step(draw.key, count)
        places = (count * self.sampling.batch_size + jnp.arange(self.sampling.batch_size)) % draw.size
        chosen = draw.order[places]
        examples = jax.tree.map(lambda x: x.at[chosen].get(mode="promise_in_bounds"), arrays)
        return self.sampling.transform(examples, transform_key), loss_key

    def judge(self, params: Any, model_state: Any, draw: Draw, arrays: Any) -> jax.Array:
        """Return the mean loss of the server's parameters on the client's first minibatches."""

        def one(count: jax.Array) -> jax.Array:
            batch, loss_key = self.minibatch(arrays, draw, count)
            return self.loss_fn(params, model_state, batch, loss_key)[0].astype(jnp.float32)

        return jnp.mean(jax.lax.map(one, jnp.arange(self.feedback_batches)))

    def train(
        self,
        tx: optax.GradientTransformation,
        state: Any,
        params: Any,
        model_state: Any,
        draw: Draw,
        steps: jax.Array,
        proximal: jax.Array,
        arrays: Any,
    ) -> Report:
        """Make `steps` local steps, () int32, and report the change.

        The local loss has the term `proximal |w - params|^2 / 2`.

        The minibatches and keys are those of `judge` with the same draw, so the first of them are those that were
        judged.
        """
        update = tolerant_update(tx)
        gradient_of = jax.value_and_grad(self.loss_fn, has_aux=True)

        def step(count: jax.Array, carry: Any) -> Any:
            local, model_state, state, total = carry
            batch, loss_key = self.minibatch(arrays, draw, count)
            (loss, model_state), gradient = gradient_of(local, model_state, batch, loss_key)
            gradient = jax.tree.map(lambda g, w, at: g + (proximal * (w - at)).astype(g.dtype), gradient, local, params)
            updates, state = update(gradient, state, local, value=loss, grad=gradient)
            return apply_updates(local, updates, state), model_state, state, total + loss.astype(jnp.float32)

        start = (params, model_state, state, jnp.float32(0))
        local, model_state, state, total = jax.lax.fori_loop(0, steps, step, start)
        change = jax.tree.map(jnp.subtract, eval_params(state, local), params)
        sound = is_sound(change) & is_sound(model_state) & jnp.isfinite(total)
        loss = jnp.where(steps > 0, total / steps, jnp.nan)
        return Report(change, model_state, state, jnp.float32(jnp.nan), loss, norm_of(change), sound)
