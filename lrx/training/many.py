"""Many runs of one workload side by side: their state, their step and their loop.

Runs differ by hyperparameters and by seed. Runs of the same seed see the same minibatches in the same order, which are
those of `lrx.train` with that seed. A run whose loss is not finite is frozen at the state before, a run that a
controller stops is frozen at its last state, and the others go on.

Two programs compute the same: "vmap" makes a step of all runs at once, "map" makes all steps of one run after the
other. `plan.py` compiles them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.extra_args import tolerant_update
from lrx.reading import monitor
from lrx.run_state import can_stop, stopped
from lrx.training.identity import (
    Identity,
    describe,
    family_identity,
    run_identity,
)
from lrx.training.program import State, draw, initial, step
from lrx.training.workload import Workload

Hyperparameters = Mapping[str, Any]


class Runs(NamedTuple):
    """The runs of one chunk; every leaf has two leading axes, (seeds, members)."""

    state: State
    memory: Any  # of the family's `watch`
    steps: jax.Array  # int32: steps made
    alive: jax.Array  # bool: whether the run goes on; it may also have been ended by a controller of its own
    diverged: jax.Array  # bool: whether a loss was not finite, or the family's `watch` has ended it
    loss_sums: jax.Array  # (points,) float32: losses, added up over the steps of each point
    loss_counts: jax.Array  # (points,) int32: how many they are
    rate_sums: jax.Array  # (points,) float32: learning rates likewise, NaN where the state holds none; or (0,)


class Watch(NamedTuple):
    """What follows the losses of a run, and may end it."""

    memory: Any  # pytree of arrays, before the first loss
    update: Callable[[Any, jax.Array, jax.Array], tuple[Any, jax.Array]]  # (memory, loss, count) -> memory, go on


FOLLOW_ALL = Watch((), lambda memory, loss, count: (memory, jnp.bool_(True)))  # noqa: ARG005


@dataclasses.dataclass
class RunFamily:
    """The runs of a workload that differ by hyperparameters and seed.

    Args:
      workload: what is trained.
      make_tx: `(hyperparameters, count) -> transformation`; the hyperparameters are () float32 each, and `count` is the
        number of steps made.
      num_steps: the most steps of a run.
      num_points: points of a run's curve, each the mean loss of equally many steps.
      watch: ends runs early.
      measure: `(params, model_state, key) -> loss`, recorded in place of the training loss, as on a validation batch.
      keep_rates: whether the curve of the learning rate is kept too.
    """

    workload: Workload
    make_tx: Callable[[Hyperparameters, jax.Array], optax.GradientTransformation]
    num_steps: int
    num_points: int
    watch: Watch = FOLLOW_ALL
    measure: Callable[[Any, Any, jax.Array], jax.Array] | None = None
    keep_rates: bool = False

    def __post_init__(self) -> None:
        self.steps_per_point = -(-self.num_steps // self.num_points)
        self.num_points = -(-self.num_steps // self.steps_per_point)

    @property
    def point_steps(self) -> np.ndarray:
        """(points,) float: the step in the middle of each point of a curve."""
        first = np.arange(self.num_points) * self.steps_per_point
        last = np.minimum(first + self.steps_per_point, self.num_steps) - 1
        return (first + last) / 2

    def identity(self, names: Iterable[str], **settings: Any) -> Identity:
        """Return what makes the numbers of all runs: `run_identity`, with the hyperparameters as arguments.

        Args:
          names: names of the hyperparameters.
          **settings: what else makes the numbers, among it the values of the hyperparameters.
        """
        hyper = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in names}
        params, _ = jax.eval_shape(self.workload.init, jax.random.key(0))
        known = run_identity(self.workload, optax.identity(), **settings)
        known |= family_identity(self.make_tx, (hyper, jax.ShapeDtypeStruct((), jnp.int32)), params)
        return known | {
            "tx": None,
            "opt_state": self.describe_state(names)["opt_state"],
        }

    def describe_state(self, names: Iterable[str]) -> dict[str, Any]:
        """Return part of the state to path to type and shape, by tracing alone."""
        return {name: describe(part) for name, part in self.shapes(names).state._asdict().items()}

    def shapes(self, names: Iterable[str]) -> Runs:
        """Return the shapes and types of one run, by tracing alone."""
        hyper = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in names}
        return jax.eval_shape(self.start, hyper, jax.random.key(0))

    def start(self, hyper: Hyperparameters, key: jax.Array) -> Runs:
        """Build one run before its first step."""
        init_key, _ = jax.random.split(key)
        state = initial(self.workload.init, self.make_tx(hyper, jnp.int32(0)), init_key)
        return Runs(
            state,
            jax.tree.map(jnp.asarray, self.watch.memory),
            jnp.int32(0),
            jnp.bool_(True),
            jnp.bool_(False),
            jnp.zeros(self.num_points, jnp.float32),
            jnp.zeros(self.num_points, jnp.int32),
            jnp.zeros(self.num_points if self.keep_rates else 0, jnp.float32),
        )

    def step(self, run: Runs, hyper: Hyperparameters, batch: Any, key: jax.Array, count: jax.Array) -> Runs:
        """Make the step of one run after `count` steps."""
        update = tolerant_update(self.make_tx(hyper, count))
        state, loss = step(self.workload.loss_fn, update, run.state, batch, key, count)
        value = loss.astype(jnp.float32)
        finite = jnp.isfinite(value)
        if self.measure is not None:
            value = self.measure(state.params, state.model_state, key).astype(jnp.float32)
            finite &= jnp.isfinite(value)
        memory, well = self.watch.update(run.memory, value, count)
        made = run.alive & finite
        rate_sums = run.rate_sums
        if self.keep_rates:
            rate = monitor(state.opt_state).get("learning_rate", jnp.float32(jnp.nan))
            rate_sums = rate_sums.at[count // self.steps_per_point].add(jnp.where(made, rate, 0.0))
        goes_on = made & well
        if can_stop(state.opt_state):
            goes_on &= ~stopped(state.opt_state)
        state, memory = jax.tree.map(
            lambda after, before: jnp.where(made, after, before), (state, memory), (run.state, run.memory)
        )
        point = count // self.steps_per_point
        return Runs(
            state,
            memory,
            run.steps + made,
            goes_on,
            run.diverged | (run.alive & ~(finite & well)),
            run.loss_sums.at[point].add(jnp.where(made, value, 0.0)),
            run.loss_counts.at[point].add(made),
            rate_sums,
        )

    def advance(
        self,
        strategy: str,
        channels_last: bool,
        runs: Runs,
        hyper: Any,
        seed_keys: Any,
        arrays: Any,
        start: Any,
        stop: Any,
    ) -> Runs:
        """Make the steps from `start` to `stop` of all runs; `seed_keys` are (seeds,), `hyper` (members,)."""
        batches = self.workload.batches
        in_order = jnp.arange(batches.num_examples, dtype=jnp.int32)
        per_epoch = batches.steps_per_epoch
        one_step = self._traced_step(runs, hyper, arrays, in_order, channels_last)

        def permuted(key: jax.Array, epoch: jax.Array) -> jax.Array:
            shuffle_key, _ = jax.random.split(jax.random.split(key)[1])
            return jax.random.permutation(jax.random.fold_in(shuffle_key, epoch), in_order)

        def batch_of(key: jax.Array, permutation: jax.Array, count: jax.Array) -> tuple[Any, jax.Array]:
            _, step_key = jax.random.split(jax.random.split(key)[1])
            return draw(arrays, permutation, step_key, count, batches.batch_size, batches.transform)

        first_epoch = start // per_epoch

        def run(
            runs: Runs, hyper: Any, keys: jax.Array, first: jax.Array, permuted: Any, batch_of: Any, one_step: Any
        ) -> Runs:
            def rest_of_epoch(carry: Any) -> Any:
                epoch = carry[0] // per_epoch
                end = jnp.minimum(stop, (epoch + 1) * per_epoch)
                # A permutation takes as long as many a step; that of the first epoch is common to the runs of a seed.
                permutation = jax.lax.cond(epoch == first_epoch, lambda: first, lambda: permuted(keys, epoch))

                def body(carry: Any) -> Any:
                    count, runs = carry
                    batch, loss_keys = batch_of(keys, permutation, count)
                    return count + 1, one_step(runs, hyper, batch, loss_keys, count)

                return jax.lax.while_loop(lambda carry: (carry[0] < end) & jnp.any(carry[1].alive), body, carry)

            def going(carry: Any) -> jax.Array:
                return (carry[0] < stop) & jnp.any(carry[1].alive)

            return jax.lax.while_loop(going, rest_of_epoch, (start, runs))[1]

        if not batches.shuffle:

            def permuted(key: jax.Array, epoch: jax.Array) -> jax.Array:
                del key, epoch
                return in_order

        if strategy == "vmap":
            by_member = jax.vmap(one_step, in_axes=(0, 0, None, None, None))
            by_seed = jax.vmap(by_member, in_axes=(0, None, 0, 0, None))
            permuted_by_seed = jax.vmap(permuted, in_axes=(0, None))
            first = permuted_by_seed(seed_keys, first_epoch)
            batch_by_seed = jax.vmap(batch_of, in_axes=(0, 0, None))
            return run(runs, hyper, seed_keys, first, permuted_by_seed, batch_by_seed, by_seed)

        def runs_of_seed(of_seed: Any) -> Runs:
            runs, key = of_seed
            first = permuted(key, first_epoch)

            def one_run(of_member: Any) -> Runs:
                return run(of_member[0], of_member[1], key, first, permuted, batch_of, one_step)

            return jax.lax.map(one_run, (runs, hyper))

        return jax.lax.map(runs_of_seed, (runs, seed_keys))

    def _traced_step(
        self, runs: Runs, hyper: Any, arrays: Any, in_order: jax.Array, channels_last: bool
    ) -> Callable[..., Any]:
        """Trace one step of one run, with its convolutions in the layout that is fast in loops on a CPU."""
        from lrx.training.convolutions import staged  # loads jax.extend

        batches = self.workload.batches
        key, count = jax.eval_shape(lambda: (jax.random.key(0), jnp.int32(0)))
        of_one = [jax.eval_shape(lambda tree: jax.tree.map(lambda x: x[0, 0], tree), runs)]
        of_one.append(jax.eval_shape(lambda tree: jax.tree.map(lambda x: x[0], tree), hyper))
        shapes = jax.eval_shape(
            lambda key, count: draw(arrays, in_order, key, count, batches.batch_size, batches.transform), key, count
        )
        one_step, _ = staged(self.step, *of_one, *shapes, count, channels_last=channels_last)
        return one_step
