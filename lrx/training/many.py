"""Many runs of one workload side by side: their state, their step and their loop.

Runs differ by hyperparameters and by seed. Runs of the same seed see the same minibatches in the same order, which are
those of `lrx.train` with that seed. A run whose loss is not finite has diverged, unless its transformation recovers by
itself, as `rollback_on_divergence` does, and the family has no `watch`. It ends there, and its state is of no use
unless the family keeps it; a run that a controller stops ends with its last state; and the others continue.

Two programs compute the same, but for states of no use: "vmap" runs one step of all runs at once, "map" runs all steps
of one run, then those of the next. `plan.py` compiles them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx.extra_args import tolerant_update
from lrx.reading import monitor
from lrx.run_state import can_stop, gave_up, handles_divergence, stopped
from lrx.training.checks import initial_shapes, optimizer_key, workload_key
from lrx.training.equality import Same, UndecidedError, key_of
from lrx.training.identity import (
    Identity,
    describe,
    family_identity,
    run_identity,
)
from lrx.training.program_cache import Cache
from lrx.training.sampling import Keys
from lrx.training.step import State, initial, step
from lrx.training.workload import Workload

Hyperparameters = Mapping[str, Any]


class Runs(NamedTuple):
    """The runs of one chunk; every leaf has two leading axes, (seeds, members)."""

    state: State
    memory: Any  # of the family's `watch`
    steps: jax.Array  # int32: steps made
    alive: jax.Array  # bool: whether the run continues; a controller of its own may have ended it too
    diverged: jax.Array  # bool: whether a loss was not finite for good, or the family's `watch` has ended it
    loss_sums: jax.Array  # (points,) float32: sums of the losses over the steps of each point
    loss_counts: jax.Array  # (points,) int32: number of losses in each sum, which are those that are finite
    rate_sums: jax.Array  # (points,) float32: learning rates likewise, NaN if the state holds none; or (0,)


class Watch(NamedTuple):
    """A rule that follows the losses of a run and may end it."""

    memory: Any  # pytree of arrays, before the first loss
    update: Callable[[Any, jax.Array, jax.Array], tuple[Any, jax.Array]]  # (memory, loss, count) -> memory, alive


BLOCK_STEPS = 64  # at least, that "map" runs of a run before the next run
_SHAPES = Cache(maxsize=64)
FOLLOW_ALL = Watch((), lambda memory, loss, count: (memory, jnp.bool_(True)))  # noqa: ARG005


def hold(one_step: Callable[..., Runs]) -> Callable[..., Runs]:
    """Return a step of one run that leaves the state of a run that has ended, or diverges in it, as it is."""

    def held(run: Runs, *arguments: Any) -> Runs:
        after = one_step(run, *arguments)
        return after._replace(state=_where(after.steps > run.steps, after.state, run.state))

    return held


def _where(condition: jax.Array, after: Any, before: Any) -> Any:
    return jax.tree.map(lambda after, before: jnp.where(condition, after, before), after, before)


def _watch_key(watching: Any) -> Hashable:
    try:
        return key_of(watching)
    except UndecidedError:
        return Same(object())  # equal to nothing


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
      measure: `(params, model_state, data, key) -> loss`, recorded in place of the training loss, as on a validation
        batch.
      measured_on: the data of `measure`, a pytree of arrays.
      keep_rates: whether the curve of the learning rate is kept too.
      keep_diverged: whether the state of a run that has diverged is that before the loss that is not finite, with "map"
        too, where this costs a pass over the state in every step.
    """

    workload: Workload
    make_tx: Callable[[Hyperparameters, jax.Array], optax.GradientTransformation]
    num_steps: int
    num_points: int
    watch: Watch = FOLLOW_ALL
    measure: Callable[[Any, Any, Any, jax.Array], jax.Array] | None = None
    measured_on: Any = ()
    keep_rates: bool = False
    keep_diverged: bool = False

    def __post_init__(self) -> None:
        _ = self.workload.batches.arrays  # which a stream refuses
        self._keys: dict[tuple[str, ...], Hashable] = {}
        self.steps_per_point = -(-self.num_steps // self.num_points)
        self.num_points = -(-self.num_steps // self.steps_per_point)

    @property
    def point_steps(self) -> np.ndarray:
        """(points,) float: the step in the middle of each point of a curve."""
        first = np.arange(self.num_points) * self.steps_per_point
        last = np.minimum(first + self.steps_per_point, self.num_steps) - 1
        return (first + last) / 2

    def identity(self, names: Iterable[str], **settings: Any) -> Identity:
        """Return what determines the numbers of all runs: `run_identity`, with the hyperparameters as arguments.

        Args:
          names: names of the hyperparameters.
          **settings: what else makes the numbers, among it the values of the hyperparameters.
        """
        hyper = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in names}
        params, _ = initial_shapes(self.workload)
        known = run_identity(self.workload, optax.identity(), **settings)
        known |= family_identity(self.make_tx, (hyper, jax.ShapeDtypeStruct((), jnp.int32)), params)
        return known | {
            "tx": None,
            "opt_state": self.describe_state(names)["opt_state"],
        }

    def describe_state(self, names: Iterable[str]) -> dict[str, Any]:
        """Return {part of the state: {path: type and shape}}, by tracing only."""
        return {name: describe(part) for name, part in self.shapes(names).state._asdict().items()}

    def shapes(self, names: Iterable[str]) -> Runs:
        """Return the shapes and types of one run, by tracing only."""
        names = tuple(names)
        hyper = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in names}
        return _SHAPES.find(self.key(names), lambda: jax.eval_shape(self.start, hyper, jax.random.key(0)))

    def key(self, names: Iterable[str]) -> Hashable:
        """Return a key that is equal for families whose runs are computed by the same programs.

        The data are not part of it, since they are arguments of the programs.
        """
        names = tuple(names)
        hyper = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in names}
        if names not in self._keys:
            arguments = (hyper, jax.ShapeDtypeStruct((), jnp.int32))
            lengths = (self.num_steps, self.num_points, self.keep_rates, self.keep_diverged)
            watched = _watch_key((self.watch, self.measure))
            made = optimizer_key(self.make_tx, arguments, self.workload)
            self._keys[names] = (workload_key(self.workload), watched, *lengths, *names, made)
        return self._keys[names]

    def start(self, hyper: Hyperparameters, init_key: jax.Array) -> Runs:
        """Build one run before its first step."""
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

    def step(
        self, run: Runs, hyper: Hyperparameters, batch: Any, measured_on: Any, key: jax.Array, count: jax.Array
    ) -> Runs:
        """Run one step of one run, after `count` completed ones.

        The state is that after the step also if the run has ended: `hold` keeps the one before.
        """
        update = tolerant_update(self.make_tx(hyper, count))
        state, loss = step(self.workload.loss_fn, update, run.state, batch, key, count)
        value = loss.astype(jnp.float32)
        # A watch judges divergence itself, as that of a range test, which ends there whatever the transformation does.
        recovers = self.watch is FOLLOW_ALL and handles_divergence(state.opt_state)
        finite = jnp.isfinite(value) | recovers
        if self.measure is not None:
            value = self.measure(state.params, state.model_state, measured_on, key).astype(jnp.float32)
            finite &= jnp.isfinite(value)
        memory, well = self.watch.update(run.memory, value, count)
        made = run.alive & finite
        counted = made & jnp.isfinite(value)
        rate_sums = run.rate_sums
        if self.keep_rates:
            rate = monitor(state.opt_state).get("learning_rate", jnp.float32(jnp.nan))
            rate_sums = rate_sums.at[count // self.steps_per_point].add(jnp.where(counted, rate, 0.0))
        goes_on = made & well
        if can_stop(state.opt_state):
            goes_on &= ~stopped(state.opt_state)
        point = count // self.steps_per_point
        return Runs(
            state,
            _where(made, memory, run.memory),
            run.steps + made,
            goes_on,
            run.diverged | (run.alive & (~(finite & well) | gave_up(state.opt_state))),
            run.loss_sums.at[point].add(jnp.where(counted, value, 0.0)),
            run.loss_counts.at[point].add(counted),
            rate_sums,
        )

    def trace_step(self, names: Iterable[str], channels_last: bool) -> tuple[Callable[..., Runs], float]:
        """Trace one step of one run, and return it with an estimate of its arithmetic operations.

        Args:
          names: names of the hyperparameters.
          channels_last: convert convolutions to the layout that is fast in loops on a CPU.
        """
        from lrx.training.convolutions import trace_once, work_of  # loads jax.extend

        hyper = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in names}
        sampling, arrays = self.workload.batches.sampling, self.workload.batches.arrays
        key, count = jax.eval_shape(lambda: (jax.random.key(0), jnp.int32(0)))
        batch, loss_key = jax.eval_shape(
            lambda arrays, key, count: sampling.draw(arrays, sampling.in_order(arrays), key, count), arrays, key, count
        )
        shapes = (self.shapes(names), hyper, batch, jax.tree.map(jnp.asarray, self.measured_on), loss_key, count)
        one_step, _ = trace_once(self.step, *shapes, channels_last=channels_last)
        return one_step, work_of(one_step, *shapes)

    def advance(
        self,
        strategy: str,
        one_step: Callable[..., Runs],
        runs: Runs,
        hyper: Any,
        keys: Keys,
        data: Any,
        start: jax.Array,
        stop: jax.Array,
    ) -> Runs:
        """Run the steps from `start` to `stop` of all runs.

        Args:
          strategy: "vmap" or "map".
          one_step: what `trace_step` returned.
          runs: (seeds, members).
          hyper: (members,) each.
          keys: (seeds,) each.
          data: the arrays of the workload, and those that `measure` takes.
          start: steps made.
          stop: steps to have made.
        """
        if strategy == "vmap" or self.keep_diverged:
            one_step = hold(one_step)
        sampling = self.workload.batches.sampling
        arrays, measured_on = data
        in_order = sampling.in_order(arrays)

        def permute(key: jax.Array, epoch: jax.Array) -> jax.Array:
            return sampling.permutation(arrays, key, epoch)

        def draw(permutation: jax.Array, key: jax.Array, count: jax.Array) -> Any:
            return sampling.draw(arrays, permutation, key, count)

        def loop(
            runs: Runs, hyper: Any, keys: Keys, permutation_of: Any, draw: Any, one_step: Any, start: Any, stop: Any
        ) -> Runs:
            def steps(count: jax.Array, permutation: jax.Array, runs: Runs) -> tuple[jax.Array, Runs]:
                batch, loss_keys = draw(permutation, keys.step, count)
                return count + 1, one_step(runs, hyper, batch, measured_on, loss_keys, count)

            arguments = (steps, permutation_of, len(in_order), start, stop, runs)
            return sampling.loop(*arguments, goes_on=lambda runs: jnp.any(runs.alive))[1]

        if strategy == "vmap":
            by_member = jax.vmap(one_step, in_axes=(0, 0, None, None, None, None))
            by_seed = jax.vmap(by_member, in_axes=(0, None, 0, None, 0, None))
            permute_by_seed = jax.vmap(permute, in_axes=(0, None))
            draw_by_seed = jax.vmap(draw, in_axes=(0, 0, None))
            permutation_of = functools.partial(permute_by_seed, keys.shuffle)
            return loop(runs, hyper, keys, permutation_of, draw_by_seed, by_seed, start, stop)

        # A permutation takes as long as many a step: those of a block of epochs serve all members of a seed.
        per_epoch = len(in_order) // sampling.batch_size
        epochs = jnp.arange(-(-BLOCK_STEPS // per_epoch), dtype=jnp.int32)

        def advance_seed(of_seed: tuple[Runs, Keys]) -> Runs:
            runs, keys = of_seed

            def block(carry: tuple[jax.Array, Runs]) -> tuple[jax.Array, Runs]:
                count, runs = carry
                first = count // per_epoch
                end = jnp.minimum(stop, (first + len(epochs)) * per_epoch)
                permutations = jax.lax.map(lambda index: permute(keys.shuffle, first + index), epochs)

                def permutation_of(epoch: jax.Array) -> jax.Array:
                    return jax.lax.dynamic_index_in_dim(permutations, epoch - first, keepdims=False)

                def advance_member(of_member: tuple[Runs, Any]) -> Runs:
                    return loop(*of_member, keys, permutation_of, draw, one_step, count, end)

                return end, jax.lax.map(advance_member, (runs, hyper))

            def unfinished(carry: tuple[jax.Array, Runs]) -> jax.Array:
                return (carry[0] < stop) & jnp.any(carry[1].alive)

            return jax.lax.while_loop(unfinished, block, (start, runs))[1]

        return jax.lax.map(advance_seed, (runs, keys))
