"""Many runs of one workload side by side, in one compiled program.

A run differs from its neighbours by hyperparameters and by its seed. Runs of the same seed see the same minibatches in
the same order, which are those of `lrx.training.train` with that seed. A run whose loss is not finite is frozen where
it was before, one that a controller stops where it is, and the others go on.

Two programs do the same: "vmap" makes a step of all runs at once, "map" makes all steps of one run after the other.
The first is faster where a single run leaves the device idle, the second where the runs have little to share, such as
convolutions with kernels of their own on a CPU. Which it is, is measured.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

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

STRATEGIES = ("vmap", "map")
MEMORY_SHARE = 0.5  # of what is free, for one chunk of runs
UNKNOWN_MEMORY = 4 * 2.0**30  # bytes, where nothing says what there is
TRIAL_STEPS = 4  # of each strategy, to compare them

Hyperparameters = Mapping[str, Any]


class Runs(NamedTuple):
    """The runs of one chunk; every leaf has two leading axes, (seeds, members)."""

    state: State
    memory: Any  # of the engine's `watch`
    steps: jax.Array  # int32: steps made
    alive: jax.Array  # bool: whether the run goes on; it may also have been ended by a controller of its own
    diverged: jax.Array  # bool: whether a loss was not finite, or the engine's `watch` has ended it
    loss_sums: jax.Array  # (points,) float32: losses, added up over the steps of each point
    loss_counts: jax.Array  # (points,) int32: how many they are
    rate_sums: jax.Array  # (points,) float32: learning rates likewise, NaN where the state holds none; or (0,)


class Watch(NamedTuple):
    """What follows the losses of a run, and may end it."""

    memory: Any  # pytree of arrays, before the first loss
    update: Callable[[Any, jax.Array, jax.Array], tuple[Any, jax.Array]]  # (memory, loss, count) -> memory, go on


FOLLOW_ALL = Watch((), lambda memory, loss, count: (memory, jnp.bool_(True)))  # noqa: ARG005


@dataclasses.dataclass
class Engine:
    """What runs are made of; compiled for one number of seeds and members at a time.

    Args:
      workload: what is trained.
      make_tx: takes the hyperparameters, () float32 each, and the count of the step to a transformation.
      num_steps: most steps of a run.
      num_points: of a run's curve; each is the mean loss of as many steps.
      watch: ends runs early.
      measure: `(params, model_state, key) -> loss`, in place of the training loss: a validation batch.
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
        self.devices = _devices()
        self.seconds: dict[str, float] = {}  # of a step of one run, by strategy, where that was measured

    @property
    def point_steps(self) -> np.ndarray:
        """(points,) float: the step in the middle of each point of a curve."""
        first = np.arange(self.num_points) * self.steps_per_point
        last = np.minimum(first + self.steps_per_point, self.num_steps) - 1
        return (first + last) / 2

    def identity(self, names: Iterable[str], **settings: Any) -> Identity:
        """Return what makes the numbers of all runs: `run_identity`, with the hyperparameters as arguments.

        Args:
          names: of the hyperparameters.
          **settings: what else makes the numbers, their values among it.
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
        """Say what the state of a run is, by traces alone."""
        hyper = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in names}
        run = jax.eval_shape(self._one_start, hyper, jax.random.key(0))
        return {name: describe(part) for name, part in run.state._asdict().items()}

    def planned(
        self,
        hyper: Mapping[str, np.ndarray],
        seeds: np.ndarray,
        *,
        strategy: str = "auto",
        chunk_size: int | None = None,
    ) -> Plan:
        """Choose the strategy and the number of members at a time, and compile.

        Args:
          hyper: of all members, (members,) each; at least one.
          seeds: of the runs of each member.
          strategy: "vmap", "map", or "auto", which measures both.
          chunk_size: members at a time; as many as fit by default.
        """
        names = tuple(hyper)
        members = len(next(iter(hyper.values())))
        wide = members if chunk_size is None else min(chunk_size, members)
        if strategy == "auto" and len(seeds) * wide == 1:
            strategy = "map"
        if strategy != "auto":
            return self._fitting(strategy, len(seeds), wide, names)
        plans = {name: self._fitting(name, len(seeds), wide, names) for name in STRATEGIES}
        self.seconds = {name: plan.trial(hyper, seeds) for name, plan in plans.items()}
        return plans[min(self.seconds, key=lambda name: self.seconds[name])]

    def _fitting(self, strategy: str, seeds: int, members: int, names: tuple[str, ...]) -> Plan:
        plan = Plan(self, strategy, seeds, members, names)
        free = MEMORY_SHARE * _free_memory(self.devices[0]) * len(self.devices)
        needed = plan.bytes_needed()
        while needed > free and plan.members > 1:
            fewer = max(1, min(plan.members - 1, int(plan.members * free / needed)))
            plan = Plan(self, strategy, seeds, fewer, names)
            needed = plan.bytes_needed()
        return plan

    def _one_start(self, hyper: Hyperparameters, key: jax.Array) -> Runs:
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

    def _one_step(self, run: Runs, hyper: Hyperparameters, batch: Any, key: jax.Array, count: jax.Array) -> Runs:
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

    def _advance(
        self, strategy: str, runs: Runs, hyper: Any, seed_keys: Any, arrays: Any, start: Any, stop: Any
    ) -> Runs:
        """Go on from step `start` to step `stop`; `seed_keys` are (seeds,), `hyper` (members,)."""
        batches = self.workload.batches
        in_order = jnp.arange(batches.num_examples, dtype=jnp.int32)
        per_epoch = batches.steps_per_epoch
        one_step = self._staged(runs, hyper, arrays, in_order)

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

    def _staged(self, runs: Runs, hyper: Any, arrays: Any, in_order: jax.Array) -> Callable[..., Any]:
        """Trace one step of one run, with its convolutions as a CPU wants them within loops."""
        from lrx.training.convolutions import staged  # loads jax.extend

        batches = self.workload.batches
        key, count = jax.eval_shape(lambda: (jax.random.key(0), jnp.int32(0)))
        of_one = [jax.eval_shape(lambda tree: jax.tree.map(lambda x: x[0, 0], tree), runs)]
        of_one.append(jax.eval_shape(lambda tree: jax.tree.map(lambda x: x[0], tree), hyper))
        shapes = jax.eval_shape(
            lambda key, count: draw(arrays, in_order, key, count, batches.batch_size, batches.transform), key, count
        )
        on_cpu = self.devices[0].platform == "cpu"
        one_step, _ = staged(self._one_step, *of_one, *shapes, count, channels_last=on_cpu)
        return one_step


class Plan:
    """An engine compiled for a number of seeds and members, with one strategy."""

    def __init__(self, engine: Engine, strategy: str, seeds: int, members: int, names: tuple[str, ...]) -> None:
        self.engine, self.strategy, self.seeds = engine, strategy, seeds
        devices = engine.devices[: max(1, min(len(engine.devices), members))]
        self.members = -(-members // len(devices)) * len(devices)  # filled up, so that every device has as many
        self._everywhere: Sharding
        self._by_member: Sharding
        self._by_run: Sharding
        if len(devices) == 1:
            self._everywhere = self._by_member = self._by_run = SingleDeviceSharding(devices[0])
        else:
            mesh = Mesh(np.array(devices), ("members",))
            self._everywhere = NamedSharding(mesh, PartitionSpec())
            self._by_member = NamedSharding(mesh, PartitionSpec("members"))
            self._by_run = NamedSharding(mesh, PartitionSpec(None, "members"))

        def start(hyper: Any, keys: jax.Array) -> Runs:
            of_seed = jax.vmap(engine._one_start, in_axes=(0, None))
            return jax.vmap(of_seed, in_axes=(None, 0))(hyper, keys)

        def advance(*arguments: Any) -> Runs:
            return engine._advance(strategy, *arguments)

        if len(devices) > 1:
            by_run, everywhere = PartitionSpec(None, "members"), PartitionSpec()
            advance = jax.shard_map(
                advance,
                mesh=mesh,
                in_specs=(by_run, PartitionSpec("members"), everywhere, everywhere, everywhere, everywhere),
                out_specs=by_run,
                check_vma=False,
            )
        number = np.zeros(self.members, np.float32)
        self._arrays = jax.device_put(engine.workload.batches.arrays, self._everywhere)
        hyper, keys = self._placed({name: number for name in names}, np.zeros(seeds, np.int64))
        self._start = jax.jit(start, out_shardings=self._by_run).lower(hyper, keys).compile()
        runs = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._by_run), jax.eval_shape(start, hyper, keys)
        )
        count = jax.device_put(jnp.int32(0), self._everywhere)
        self._advance = (
            jax.jit(advance, donate_argnums=0, out_shardings=self._by_run)
            .lower(runs, hyper, keys, self._arrays, count, count)
            .compile()
        )

    def _placed(self, hyper: Mapping[str, np.ndarray], seeds: np.ndarray) -> tuple[dict[str, jax.Array], jax.Array]:
        """Put hyperparameters, filled up to the number of members, and the seeds' keys where they are used."""
        padded = {
            name: jax.device_put(
                np.concatenate([values, np.repeat(values[-1:], self.members - len(values))]).astype(np.float32),
                self._by_member,
            )
            for name, values in hyper.items()
        }
        keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.int32))
        return padded, jax.device_put(keys, self._everywhere)

    def start(self, hyper: Mapping[str, np.ndarray], seeds: np.ndarray) -> Runs:
        """Make the runs before their first step."""
        return self._start(*self._placed(hyper, seeds))

    def advance(self, runs: Runs, hyper: Mapping[str, np.ndarray], seeds: np.ndarray, start: int, stop: int) -> Runs:
        """Go on from step `start` to step `stop`; the runs that are given are used up."""
        counts = [jax.device_put(jnp.int32(count), self._everywhere) for count in (start, stop)]
        return self._advance(runs, *self._placed(hyper, seeds), self._arrays, *counts)

    def put(self, runs: Runs) -> Runs:
        """Put runs that were kept on the host where they go on, filled up to the number of members."""
        number = runs.alive.shape[1]
        places = np.minimum(np.arange(self.members), number - 1)
        return jax.device_put(jax.tree.map(lambda x: x[:, places], runs), self._by_run)

    def bytes_needed(self) -> float:
        """What the program needs beside the data, 0 where the device does not say."""
        memory = self._advance.memory_analysis()
        if memory is None:
            return 0.0
        # The runs that come out take the place of those that go in.
        return float(memory.temp_size_in_bytes + memory.output_size_in_bytes)

    def trial(self, hyper: Mapping[str, np.ndarray], seeds: np.ndarray) -> float:
        """Measure the seconds of a step of one run."""
        hyper = {name: values[: self.members] for name, values in hyper.items()}
        seconds = {}
        for stop in (1, 1 + TRIAL_STEPS):  # the difference leaves out what is done once an epoch
            seconds[stop] = np.inf
            for _ in range(2):
                runs = jax.block_until_ready(self.start(hyper, seeds))
                began = time.perf_counter()
                jax.block_until_ready(self.advance(runs, hyper, seeds, 0, stop))
                seconds[stop] = min(seconds[stop], time.perf_counter() - began)
        each = (seconds[1 + TRIAL_STEPS] - seconds[1]) / TRIAL_STEPS
        return float(max(each, 1e-9)) / (self.members * self.seeds)


def _devices() -> tuple[jax.Device, ...]:
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    return (chosen,) if isinstance(chosen, jax.Device) else tuple(jax.local_devices(backend=chosen))


def _free_memory(device: jax.Device) -> float:
    """Bytes that are free on a device."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024.0 * int(lines["MemAvailable"].split()[0]) / len(_devices())
    except (OSError, KeyError, ValueError):  # not Linux
        return UNKNOWN_MEMORY
