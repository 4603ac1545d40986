"""Which minibatch a step sees, and with which keys: runs of the same seed see the same minibatches.

Everything random in a run follows from its seed and the number of the step or epoch. `train`, many runs side by side
and the tools all draw here, so that a run alone, the same run in a sweep and a resumed run agree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Keys(NamedTuple):
    """The keys of a seed."""

    init: jax.Array  # of the initial parameters
    shuffle: jax.Array  # of the permutations of the epochs
    step: jax.Array  # of transforms and losses


def keys_of(seed: Any) -> Keys:
    """Return the keys of a run: () keys, of a seed that is () int32 and may be traced."""
    init, run = jax.random.split(jax.random.key(seed))
    return Keys(init, *jax.random.split(run))


def pass_keys(seed: Any) -> tuple[jax.Array, jax.Array]:
    """Return the keys, of a permutation and of the steps, of a pass over minibatches that belongs to no run."""
    shuffle, step = jax.random.split(jax.random.key(seed))
    return shuffle, step


@jax.jit
def keys_of_seeds(seeds: jax.Array) -> Keys:
    """Return the keys of several runs, (seeds,) each."""
    return jax.vmap(keys_of)(seeds)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How minibatches are drawn from arrays.

    Args:
      batch_size: examples in a minibatch.
      transform: `(minibatch of arrays, key) -> batch`.
      shuffle: whether each epoch has a permutation of its own.
    """

    batch_size: int
    transform: Callable[[Any, jax.Array], Any]
    shuffle: bool

    def in_order(self, arrays: Any) -> jax.Array:
        """Return (examples,) int32: the numbers of the examples in their own order."""
        return jnp.arange(jax.tree.leaves(arrays)[0].shape[0], dtype=jnp.int32)

    def permutation(self, arrays: Any, shuffle_key: jax.Array, epoch: jax.Array | None) -> jax.Array:
        """Return (examples,) int32: the order of the examples in an epoch, or in a pass that is the only one."""
        in_order = self.in_order(arrays)
        if not self.shuffle:
            return in_order
        key = shuffle_key if epoch is None else jax.random.fold_in(shuffle_key, epoch)
        return jax.random.permutation(key, in_order)

    def draw(
        self,
        arrays: Any,
        permutation: jax.Array,
        step_key: jax.Array,
        count: jax.Array,
        split: Callable[[jax.Array], jax.Array] = lambda x: x,
    ) -> tuple[Any, jax.Array]:
        """Return the batch of the step after `count` steps, and the key of its loss; `split` places the batch."""
        steps_per_epoch = permutation.shape[0] // self.batch_size
        transform_key, loss_key = self.keys_of_step(step_key, count)
        first = count % steps_per_epoch * self.batch_size
        chosen = split(jax.lax.dynamic_slice(permutation, (first,), (self.batch_size,)))
        minibatch = jax.tree.map(lambda x: split(x.at[chosen].get(mode="promise_in_bounds")), arrays)
        return self.transform(minibatch, transform_key), loss_key

    def keys_of_step(self, step_key: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the keys of the transform and of the loss in the step after `count` steps."""
        transform_key, loss_key = jax.random.split(jax.random.fold_in(step_key, count))
        return transform_key, loss_key

    def loop(
        self,
        step: Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]],
        permutation_of: Callable[[jax.Array], jax.Array],
        num_examples: int,
        start: jax.Array,
        stop: jax.Array,
        carry: Any,
        goes_on: Callable[[Any], jax.Array] = lambda carry: jnp.bool_(True),  # noqa: ARG005
    ) -> tuple[jax.Array, Any]:
        """Run the steps from `start` to `stop`, epoch by epoch.

        Args:
          step: `(count, permutation, carry) -> (count, carry)`, a step.
          permutation_of: epoch to permutation, of any shape.
          num_examples: examples in an epoch.
          start: () int32, steps made.
          stop: () int32, steps to have made.
          carry: what the steps change.
          goes_on: whether to make more steps, given `carry`.

        Returns:
          The number of steps made, and `carry`.
        """
        steps_per_epoch = num_examples // self.batch_size

        def rest_of_epoch(outer: Any) -> Any:
            count, _ = outer
            epoch = count // steps_per_epoch
            end = jnp.minimum(stop, (epoch + 1) * steps_per_epoch)
            permutation = permutation_of(epoch)

            def unfinished(inner: Any) -> jax.Array:
                return (inner[0] < end) & goes_on(inner[1])

            def body(inner: Any) -> Any:
                return step(inner[0], permutation, inner[1])

            return jax.lax.while_loop(unfinished, body, outer)

        def unfinished(outer: Any) -> jax.Array:
            return (outer[0] < stop) & goes_on(outer[1])

        return jax.lax.while_loop(unfinished, rest_of_epoch, (start, carry))
