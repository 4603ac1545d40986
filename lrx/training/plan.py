"""Programs for many runs: where they are placed, which strategy they use, and how many fit into memory.

"vmap" is faster if a single run leaves the device idle, "map" if the runs have little to share, such as convolutions
with kernels of their own on a CPU. Which is faster is measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from lrx.training.many import RunFamily, Runs

STRATEGIES = ("vmap", "map")
MEMORY_SHARE = 0.5  # of what is free, for one chunk of runs
UNKNOWN_MEMORY = 4 * 2.0**30  # bytes, if nothing says how many are free
TRIAL_STEPS = 4  # of each strategy, to compare them


def choose_plan(
    family: RunFamily,
    hyper: Mapping[str, np.ndarray],
    seeds: np.ndarray,
    *,
    strategy: str = "auto",
    chunk_size: int | None = None,
) -> Plan:
    """Choose the strategy and the number of members at a time, and compile.

    Args:
      family: the runs.
      hyper: hyperparameter to its values for all members, (members,) each; at least one.
      seeds: seeds of the runs of each member.
      strategy: "vmap", "map", or "auto", which measures both.
      chunk_size: members at a time; as many as fit by default.
    """
    names = tuple(hyper)
    members = len(next(iter(hyper.values())))
    wide = members if chunk_size is None else min(chunk_size, members)
    if strategy == "auto" and len(seeds) * wide == 1:
        strategy = "map"
    if strategy != "auto":
        return _fitting_plan(family, strategy, len(seeds), wide, names)
    plans = {name: _fitting_plan(family, name, len(seeds), wide, names) for name in STRATEGIES}
    seconds = {name: plan.time_step(hyper, seeds) for name, plan in plans.items()}
    chosen = plans[min(seconds, key=lambda name: seconds[name])]
    chosen.seconds = seconds
    return chosen


def _fitting_plan(family: RunFamily, strategy: str, seeds: int, members: int, names: tuple[str, ...]) -> Plan:
    plan = Plan(family, strategy, seeds, members, names)
    devices = _devices()
    free = MEMORY_SHARE * _free_memory(devices[0]) * len(devices)
    needed = plan.bytes_needed()
    while needed > free and plan.members > 1:
        fewer = max(1, min(plan.members - 1, int(plan.members * free / needed)))
        plan = Plan(family, strategy, seeds, fewer, names)
        needed = plan.bytes_needed()
    return plan


class Plan:
    """A family of runs compiled for a number of seeds and members, with one strategy.

    Attributes:
      strategy: "vmap" or "map".
      members: how many are trained at a time.
      seconds: strategy to the seconds of a step of one run; empty if they were not measured.
    """

    def __init__(self, family: RunFamily, strategy: str, seeds: int, members: int, names: tuple[str, ...]) -> None:
        self.strategy, self.seeds = strategy, seeds
        self.seconds: dict[str, float] = {}
        devices = _devices()
        devices = devices[: max(1, min(len(devices), members))]
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
            of_seed = jax.vmap(family.start, in_axes=(0, None))
            return jax.vmap(of_seed, in_axes=(None, 0))(hyper, keys)

        def advance(*arguments: Any) -> Runs:
            return family.advance(strategy, devices[0].platform == "cpu", *arguments)

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
        self._arrays = jax.device_put(family.workload.batches.arrays, self._everywhere)
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
        """Put hyperparameters, filled up to the number of members, and the keys of the seeds on their devices."""
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
        """Build the runs before their first step."""
        return self._start(*self._placed(hyper, seeds))

    def advance(self, runs: Runs, hyper: Mapping[str, np.ndarray], seeds: np.ndarray, start: int, stop: int) -> Runs:
        """Make the steps from `start` to `stop`; the runs that are given are used up."""
        counts = [jax.device_put(jnp.int32(count), self._everywhere) for count in (start, stop)]
        return self._advance(runs, *self._placed(hyper, seeds), self._arrays, *counts)

    def put(self, runs: Runs) -> Runs:
        """Put runs that were kept on the host on their devices, filled up to the number of members."""
        number = runs.alive.shape[1]
        places = np.minimum(np.arange(self.members), number - 1)
        return jax.device_put(jax.tree.map(lambda x: x[:, places], runs), self._by_run)

    def bytes_needed(self) -> float:
        """Return how much memory the program needs beside the data, 0 if the device does not say."""
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


def _devices() -> tuple[jax.Device, ...]:
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    return (chosen,) if isinstance(chosen, jax.Device) else tuple(jax.local_devices(backend=chosen))


def _free_memory(device: jax.Device) -> float:
    """Return the number of bytes that are free on a device."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024.0 * int(lines["MemAvailable"].split()[0]) / len(_devices())
    except (OSError, KeyError, ValueError):  # not Linux
        return UNKNOWN_MEMORY
