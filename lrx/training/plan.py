"""Programs for many runs: where they are placed, which strategy they use, and how many fit into memory.

"vmap" is faster if a single run leaves the device idle, "map" if the runs have little to share, such as convolutions
with kernels of their own on a CPU. Which is faster is measured, unless a step is so small that "vmap" always is.

Programs are kept: equal families of runs, with data of the same shapes, compile once (`program_cache.py`).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec, Sharding

from lrx.direction import QUICK
from lrx.training.many import RunFamily, Runs
from lrx.training.placement import data_devices, local_devices, placement
from lrx.training.program_cache import Cache
from lrx.training.sampling import Keys, keys_of_seeds

STRATEGIES = ("vmap", "map")
MEMORY_SHARE = 0.5  # of what is free, for one chunk of runs
UNKNOWN_MEMORY = 4 * 2.0**30  # bytes, if nothing says how many are free
TRIAL_STEPS = 4  # of each strategy, to compare them
# Options of the CPU's compiler, by which it finds that a state can be changed in place: each array that an update hands
# on unchanged within a `switch` would be copied in every step.
IN_PLACE = {"xla_cpu_copy_insertion_use_region_analysis": True}
SMALL_WORK = 2.0**16  # operations of a step: below, "vmap" was 1.3 to 7 times faster on a CPU, of dense networks


def choose_plan(
    family: RunFamily,
    hyper: Mapping[str, np.ndarray],
    seeds: np.ndarray,
    *,
    strategy: str = "auto",
    chunk_size: int | None = None,
    compile_later: bool = False,
    devices: tuple[jax.Device, ...] | None = None,
) -> Plan:
    """Choose the strategy and the number of members at a time, and compile.

    Args:
      family: the runs.
      hyper: hyperparameter to its values for all members, (members,) each; at least one.
      seeds: seeds of the runs of each member.
      strategy: "vmap", "map", or "auto", which measures both if a step is not small.
      chunk_size: members at a time; as many as fit by default.
      compile_later: for a single member with the strategy "map", compile the steps only if `Plan.compile` is called, or
        the first of them is made, and the function that builds the runs without optimizing it.
      devices: over which the members are split, or the seeds of a single member; by default those of the data.
    """
    programs = _Programs(family, tuple(hyper), len(seeds), devices)
    members = len(next(iter(hyper.values())))
    wide = members if chunk_size is None else min(chunk_size, members)
    if strategy == "auto" and len(seeds) * wide == 1:
        strategy = "map"
    if compile_later and strategy == "map" and wide == 1:
        return Plan(programs, strategy, 1, quick_start=True)
    if strategy != "auto":
        return _fitting_plan(programs, strategy, wide)

    def measure() -> tuple[str, dict[str, float]]:
        if programs.work <= SMALL_WORK:
            return "vmap", {}
        plans = {name: _fitting_plan(programs, name, wide) for name in STRATEGIES}
        seconds = {name: plan.time_step(hyper, seeds) for name, plan in plans.items()}
        return min(seconds, key=lambda name: seconds[name]), seconds

    strategy, seconds = _CHOICES.find((programs.key, wide), measure)
    plan = _fitting_plan(programs, strategy, wide)
    plan.seconds = dict(seconds)
    return plan


def _fitting_plan(programs: _Programs, strategy: str, members: int) -> Plan:
    plan = Plan(programs, strategy, members).compile()
    free = MEMORY_SHARE * _free_memory(programs.devices[0]) * len(programs.devices)
    needed = plan.bytes_needed()
    while needed > free and plan.members > 1:
        fewer = max(1, min(plan.members - 1, int(plan.members * free / needed)))
        # A power of two, so that a call with a little more or less memory finds the program again.
        plan = Plan(programs, strategy, 1 << (fewer.bit_length() - 1))
        needed = plan.bytes_needed()
    return plan


_TRACED = Cache(maxsize=4)
_COMPILED = Cache(maxsize=64)
_CHOICES = Cache(maxsize=256)


class _Programs:
    """The programs of a family of runs, for any number of members."""

    def __init__(
        self, family: RunFamily, names: tuple[str, ...], seeds: int, devices: tuple[jax.Device, ...] | None
    ) -> None:
        self.family, self.names, self.seeds = family, names, seeds
        self.devices = data_devices(family.workload.batches) if devices is None else devices
        self.data = jax.tree.map(jnp.asarray, (family.workload.batches.arrays, family.measured_on))
        shapes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(self.data)]
        self.key = (family.key(names), jax.tree.structure(self.data), *shapes, seeds, self.devices)

    @functools.cached_property
    def _traced(self) -> Any:
        return self.family.trace_step(self.names, self.devices[0].platform == "cpu")

    @property
    def work(self) -> float:
        """About how many operations a step of one run makes."""
        return self._traced[1]

    def _traced_start(self, devices: tuple[jax.Device, ...], members: int) -> Any:
        """Trace the function that builds the runs; it is compiled, and the shapes of the runs are those it returns."""

        def trace() -> Any:
            hyper, keys = self._arguments(devices, members)
            return jax.jit(self._start, out_shardings=_Split(devices, members).runs).trace(hyper, keys.init)

        return _TRACED.find((self.key, devices, members), trace)

    def compile_start(self, devices: tuple[jax.Device, ...], members: int, *, quick: bool) -> Any:
        """Compile the function that builds the runs; a quick one is not optimized."""
        options = QUICK if quick and devices[0].platform == "cpu" else None
        key = (self.key, devices, members, options is None)
        return _COMPILED.find(key, lambda: _compile(self._traced_start(devices, members).lower(), options))

    def compile_advance(self, devices: tuple[jax.Device, ...], members: int, strategy: str) -> Any:
        """Compile the function that runs the steps."""
        key = (self.key, devices, members, strategy)
        return _COMPILED.find(key, lambda: self._compile_advance(devices, members, strategy))

    def _compile_advance(self, devices: tuple[jax.Device, ...], members: int, strategy: str) -> Any:
        places, split = placement(devices), _Split(devices, members)
        hyper, keys = self._arguments(devices, members)
        runs = _shapes(self._traced_start(devices, members).out_info, split.runs)
        data, count = _shapes((self.data, jax.eval_shape(lambda: jnp.int32(0))), places.everywhere)
        one_step = self._traced[0]

        def advance(*arguments: Any) -> Runs:
            return self.family.advance(strategy, one_step, *arguments)

        if places.mesh is not None:
            by_run, by_member, by_seed = (place.spec for place in (split.runs, split.members, split.seeds))
            everywhere = PartitionSpec()
            advance = jax.shard_map(
                advance,
                mesh=places.mesh,
                in_specs=(by_run, by_member, by_seed, everywhere, everywhere, everywhere),
                out_specs=by_run,
                check_vma=False,
            )
        program = jax.jit(advance, donate_argnums=0, out_shardings=split.runs)
        options = IN_PLACE if devices[0].platform == "cpu" else None
        return _compile(program.lower(runs, hyper, keys, data, count, count), options)

    def _start(self, hyper: Any, init_keys: jax.Array) -> Runs:
        of_seed = jax.vmap(self.family.start, in_axes=(0, None))
        return jax.vmap(of_seed, in_axes=(None, 0))(hyper, init_keys)

    def _arguments(self, devices: tuple[jax.Device, ...], members: int) -> tuple[Any, Any]:
        split = _Split(devices, members)
        hyper = {name: jax.ShapeDtypeStruct((members,), jnp.float32) for name in self.names}
        keys = jax.eval_shape(keys_of_seeds, jax.ShapeDtypeStruct((self.seeds,), jnp.int32))
        return _shapes(hyper, split.members), _shapes(keys, split.seeds)


class _Split:
    """How runs are split over devices: by their members, or by their seeds if there is a single member.

    Attributes:
      runs: where arrays of runs are put, (seeds, members).
      members: where those of hyperparameters are put, (members,).
      seeds: where keys are put, (seeds,).
    """

    def __init__(self, devices: tuple[jax.Device, ...], members: int) -> None:
        places = placement(devices)
        by_seed = members == 1
        self.runs: Any = places.along(0 if by_seed else 1)
        self.members: Any = places.everywhere if by_seed else places.along(0)
        self.seeds: Any = places.along(0) if by_seed else places.everywhere


def _compile(lowered: Any, options: Mapping[str, Any] | None) -> Any:
    """Compile with options, or without if the compiler does not know one of them."""
    try:
        return lowered.compile(options)
    except jax.errors.JaxRuntimeError as error:
        if options is None or "No such compile option" not in str(error):
            raise
        return lowered.compile()


def _shapes(tree: Any, sharding: Sharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


class Plan:
    """A family of runs compiled for a number of seeds and members, with one strategy.

    Attributes:
      strategy: "vmap" or "map".
      members: how many are trained at a time.
      seconds: strategy to the seconds of a step of one run; empty if they were not measured.
    """

    def __init__(self, programs: _Programs, strategy: str, members: int, *, quick_start: bool = False) -> None:
        self.strategy, self.seeds = strategy, programs.seeds
        self.seconds: dict[str, float] = {}
        if members == 1:  # every device has as many of its seeds
            number = max(k for k in range(1, len(programs.devices) + 1) if programs.seeds % k == 0)
            devices, self.members = programs.devices[:number], 1
        else:
            devices = programs.devices[: min(len(programs.devices), members)]
            self.members = -(-members // len(devices)) * len(devices)  # filled up, so that every device has as many
        self._places, self._split = placement(devices), _Split(devices, self.members)
        self._start = programs.compile_start(devices, self.members, quick=quick_start)
        self._compile = functools.partial(programs.compile_advance, devices, self.members, strategy)
        self._data = jax.device_put(programs.data, self._places.everywhere)

    @functools.cached_property
    def _advance(self) -> Any:
        return self._compile()

    def compile(self) -> Plan:
        """Compile the steps, unless they are compiled, and return the plan."""
        _ = self._advance
        return self

    def _place(self, hyper: Mapping[str, np.ndarray], seeds: np.ndarray) -> tuple[dict[str, jax.Array], Keys]:
        """Put hyperparameters, filled up to the number of members, and the keys of the seeds on their devices."""
        padded = {
            name: jax.device_put(
                np.concatenate([values, np.repeat(values[-1:], self.members - len(values))]).astype(np.float32),
                self._split.members,
            )
            for name, values in hyper.items()
        }
        return padded, jax.device_put(keys_of_seeds(np.asarray(seeds, np.int32)), self._split.seeds)

    def start(self, hyper: Mapping[str, np.ndarray], seeds: np.ndarray) -> Runs:
        """Build the runs before their first step."""
        placed, keys = self._place(hyper, seeds)
        return self._start(placed, keys.init)

    def advance(self, runs: Runs, hyper: Mapping[str, np.ndarray], seeds: np.ndarray, start: int, stop: int) -> Runs:
        """Run the steps from `start` to `stop`; the runs passed in are donated."""
        counts = [jax.device_put(np.int32(count), self._places.everywhere) for count in (start, stop)]
        return self._advance(runs, *self._place(hyper, seeds), self._data, *counts)

    def put(self, runs: Runs) -> Runs:
        """Put runs that were kept on the host on their devices, filled up to the number of members."""
        number = runs.alive.shape[1]
        places = np.minimum(np.arange(self.members), number - 1)
        return jax.device_put(jax.tree.map(lambda x: x[:, places], runs), self._split.runs)

    def bytes_needed(self) -> float:
        """Return how much memory the program needs besides the data, 0 if the device does not say."""
        memory = self._advance.memory_analysis()
        if memory is None:
            return 0.0
        # The runs that come out take the place of those that go in.
        return float(memory.temp_size_in_bytes + memory.output_size_in_bytes)

    def time_step(self, hyper: Mapping[str, np.ndarray], seeds: np.ndarray) -> float:
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


def _free_memory(device: jax.Device) -> float:
    """Return the number of bytes that are free on a device."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024.0 * int(lines["MemAvailable"].split()[0]) / len(local_devices())
    except (OSError, KeyError, ValueError):  # not Linux
        return UNKNOWN_MEMORY
