"""The learning-rate range test: one short run through all rates shows which of them train."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from lrx import _checks
from lrx.optimizers.accumulation import accumulate as accumulated
from lrx.training.many import RunFamily, Runs
from lrx.training.plan import Plan, choose_plan
from lrx.training.progress import ProgressMeter, reporter, require_progress
from lrx.training.runs import curves
from lrx.training.stream import Stream
from lrx.training.workload import Workload, require_workload
from lrx.tuning.arguments import as_seeds, require_descent_on, require_no_accumulation
from lrx.tuning.execution import devices_of, require_local_mesh
from lrx.tuning.initial_loss import InitialLoss
from lrx.tuning.ladder import extend_ladder, make_ladder
from lrx.tuning.range_reading import DIVERGENCE_FACTOR, default_smoothing, divergence_watch, read_runs
from lrx.tuning.range_test_result import RangeTest
from lrx.tuning.space import try_out_rates

MEMBER = {"member": np.zeros(1)}  # a single member, whose rates are those of the ladder


def range_test(
    workload: Workload,
    tx: Callable[[Any], optax.GradientTransformation],
    *,
    min_rate: float = 1e-7,
    max_rate: float = 10.0,
    num_steps: int = 100,
    ladder: str = "exponential",
    smoothing: float | None = None,
    divergence_factor: float = DIVERGENCE_FACTOR,
    accumulate: int = 1,
    validation_batch: Any = None,
    seeds: int | Sequence[int] = 1,
    extend: bool = True,
    progress: bool | str | None = None,
    mesh: Mesh | None = None,
) -> RangeTest:
    """Train for a few steps while the rate rises from far too small to far too large, and record the loss.

    With n = `num_steps`, step i has the rate `min_rate (max_rate / min_rate)^(i / (n - 1))` (or a linear ladder, or one
    that doubles: `min_rate 2^floor(i m / n)` for the m powers up to `max_rate`), which hits both ends. The test is one
    compiled loop and stops where it diverges: at a loss that is not finite, or that is above the best running mean b
    by more than `(divergence_factor - 1) max(|b|, (l_0 - b) / 10)`, l_0 the median of the first three losses. Single
    outliers are not a divergence: losses go through a median of three first. `diverged_at` is determined afterwards: it
    is the rate of the step after which all losses are too high. The curve that the suggestions follow has no lag: with
    the losses l, cut off at that bound,

        s_i = sum_j beta^|i - j| l_j / sum_j beta^|i - j|

    so the ends are not biased. Each loss is compared with that of the initial parameters on the same minibatch. If no
    rate makes a difference, the ladder continues in its own steps, for as many again or up to 10,000 `max_rate`; if
    none makes the loss fall, no rate is suggested. None of the caller's objects is changed.

    Args:
      workload: the model, its data and its loss.
      tx: `rate -> transformation`, such as `lrx.adam` or `lambda rate: lrx.sgd(rate, momentum=0.9)`; the rate is
      traced.
      min_rate: the first rate, > 0.
      max_rate: the last rate, > min_rate.
      num_steps: rates on the ladder, at least 6.
      ladder: "exponential", "linear" or "doubling".
      smoothing: beta, in [0, 1); by default e^(-20 / n), which reaches over a twentieth of the ladder.
      divergence_factor: > 1, as above.
      accumulate: minibatches whose mean gradient makes one step.
      validation_batch: a batch whose loss after each step is recorded, in place of the training loss before it.
      seeds: number of runs (with seeds 0, 1, ...), or the list of seeds; they run side by side.
      extend: whether the ladder may continue beyond `max_rate`, as above.
      progress: True shows a bar, or lines without a terminal; None shows a bar on a terminal and nothing elsewhere; a
        string is its title; False shows nothing.
      mesh: the devices, of this process, over which the seeds are split: as many of them as divide the number of seeds;
        by default those that the data were put on, or else all of this process.

    Returns:
      A `RangeTest`. Its `suggestion` raises an error if nothing was learnt at any rate.

    Raises:
      ValueError: if an argument is out of its range, `tx` ascends (`lrx.direction`) or accumulates gradients, or
        the loss is not finite at the first rate.
      TypeError: if an argument is of the wrong type.

    Differs from the source:
      The smoothing does not lag, so no suggestion has to be moved back by a factor; the ladder ends at `max_rate`.

    Source:
      L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, arXiv:1506.01186, section 3.3; the
      rules for suggestions follow fastai's learner (J. Howard, S. Gugger, 2018).

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> x = jnp.linspace(-1.0, 1.0, 64)
      >>> line = lrx.Workload.from_functions(
      ...     lambda slope, batch, key: jnp.mean((slope * batch[0] - batch[1]) ** 2),
      ...     lambda key: jax.random.normal(key),
      ...     lrx.Batches((x, 3.0 * x), batch_size=16),
      ... )
      >>> found = lrx.range_test(line, lrx.sgd, max_rate=100.0)
      >>> 0.01 < found.suggestion < 3 < found.diverged_at
      True
    """
    require_workload(workload)
    rates = make_ladder(min_rate, max_rate, num_steps, ladder)
    try_out_rates(tx, rates[[0, -1]])
    if smoothing is not None:
        _checks.in_interval("smoothing", smoothing, "[0, 1)", "at 1 all losses would count alike")
    beta = default_smoothing(num_steps) if smoothing is None else float(smoothing)
    _checks.above("divergence_factor", divergence_factor, 1, "it multiplies the best loss")
    _checks.steps("accumulate", accumulate, unit="minibatches")
    _checks.flag("extend", extend)
    require_progress(progress)
    require_local_mesh(mesh)
    seed_array = as_seeds(seeds)
    if isinstance(workload.batches, Stream):
        longest = num_steps + (len(extend_ladder(rates, ladder)) if extend else 0)
        workload = dataclasses.replace(workload, batches=workload.batches.take(longest * accumulate))
    require_no_accumulation(workload, tx(float(rates[0])))
    require_descent_on(workload, tx(float(rates[0])))
    longer = np.concatenate([rates, extend_ladder(rates, ladder)]) if extend else rates
    runs = _LadderRuns(
        *(workload, tx, longer, beta, float(divergence_factor), accumulate, validation_batch, seed_array),
        devices_of(mesh),
    )
    status = reporter(
        progress,
        f"range test, {workload.name}",
        step=0,
        total=len(rates) * accumulate,
        batch_size=workload.batches.batch_size,
        unit="examples",
    )
    with status:
        runs.start(status)
        test = runs.advance(len(rates), status)
        if len(longer) > len(rates) and test.is_flat():
            status.total = len(longer) * accumulate
            test = runs.advance(len(longer), status)
    return test


@dataclasses.dataclass(frozen=True)
class _OnLadder:
    """The factory of runs whose rate follows the ladder."""

    tx: Callable[[Any], optax.GradientTransformation]
    rates: tuple[float, ...]
    accumulate: int

    def __call__(self, hyper: Any, count: jax.Array) -> optax.GradientTransformation:
        del hyper
        made = self.tx(jnp.asarray(self.rates, jnp.float32)[count // self.accumulate])
        return made if self.accumulate == 1 else accumulated(made, self.accumulate)


@dataclasses.dataclass(frozen=True)
class _LossOn:
    """The loss on a validation batch, which is recorded in place of the training loss."""

    loss_fn: Callable[..., Any]

    def __call__(self, params: Any, model_state: Any, batch: Any, key: jax.Array) -> jax.Array:
        return self.loss_fn(params, model_state, batch, key)[0]


class _LadderRuns:
    """The runs on a ladder."""

    def __init__(
        self,
        workload: Workload,
        tx: Callable[[Any], optax.GradientTransformation],
        rates: np.ndarray,
        beta: float,
        divergence_factor: float,
        accumulate: int,
        validation_batch: Any,
        seeds: np.ndarray,
        devices: tuple[jax.Device, ...] | None,
    ) -> None:
        self.devices = devices
        self.rates, self.beta, self.divergence_factor = rates, beta, divergence_factor
        self.accumulate, self.seeds = accumulate, seeds
        self.lag = 1 if validation_batch is None else 0  # a training loss is that before the step
        batch = jax.tree.map(jnp.asarray, validation_batch)  # None if there is none
        self.initial_loss = InitialLoss(workload, batch)
        self.family = RunFamily(
            workload,
            _OnLadder(tx, tuple(map(float, rates)), accumulate),
            len(rates) * accumulate,
            len(rates),
            divergence_watch(beta, divergence_factor, accumulate),
            None if batch is None else _LossOn(workload.loss_fn),
            () if batch is None else batch,
        )

    def start(self, status: ProgressMeter) -> None:
        """Compile, and build the runs before their first step."""
        strategy = "map" if len(self.seeds) == 1 else "vmap"
        self.plan: Plan = choose_plan(self.family, MEMBER, self.seeds, strategy=strategy, devices=self.devices)
        self.runs: Runs = self.plan.start(MEMBER, self.seeds)
        self.done = 0  # minibatches
        status.start()

    def advance(self, number: int, status: ProgressMeter) -> RangeTest:
        """Train up to the end of the first `number` rates, and return what the runs show."""
        total = number * self.accumulate
        for stop in np.linspace(self.done, total, 11).astype(int)[1:].tolist() if status.enabled else [total]:
            self.runs = self.plan.advance(self.runs, MEMBER, self.seeds, self.done, stop)
            self.done = stop
            if status.enabled:
                made = -(-stop // self.accumulate)
                known = curves(self.runs)[0, 0, :made]
                known = known[np.isfinite(known)]
                status.update(stop, float(known[-1]) if len(known) else np.nan, float(self.rates[made - 1]))
        made = int(np.max(self.runs.steps)) // self.accumulate
        initial = np.full((len(self.seeds), number, self.accumulate), np.nan, np.float32)
        for place, seed in enumerate(self.seeds):
            losses = self.initial_loss.losses(seed, 0, made * self.accumulate)
            initial[place, :made] = losses.reshape(made, self.accumulate)
        return read_runs(
            self.rates[:number],
            self.runs,
            initial.mean(axis=-1),
            self.beta,
            self.divergence_factor,
            self.accumulate,
            self.lag,
        )
