"""The learning-rate range test: one short run through all rates shows which of them train."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from lrx import _checks
from lrx.optimizers.accumulation import accumulate as accumulated
from lrx.training.many import RunFamily, Runs, Watch
from lrx.training.plan import Plan, choose_plan
from lrx.training.progress import ProgressMeter, reporter, require_progress
from lrx.training.runs import curves
from lrx.training.stream import Stream
from lrx.training.workload import Workload, require_workload
from lrx.tuning.arguments import as_seeds, require_descent_on, require_no_accumulation
from lrx.tuning.execution import devices_of, require_local_mesh
from lrx.tuning.initial_loss import MIN_CHANGE, InitialLoss
from lrx.tuning.ladder import extend_ladder, make_ladder
from lrx.tuning.range_test_result import RangeTest
from lrx.tuning.space import try_out_rates
from lrx.tuning.suggestions import (
    RULES,
    blow_up_place,
    divergence_bound,
    noise_of,
    smooth,
    smooth_apart,
    suggest,
)

WINDOW = 1 / 20  # of the ladder: the reach of the smoothing to either side
SEEN = 0.5  # of the highest gain: if the lowest loss has a smaller gain, it is low by chance
DIVERGENCE_FACTOR = 4.0  # as the argument divergence_factor
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
    beta = _default_smoothing(num_steps) if smoothing is None else float(smoothing)
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
            _divergence_watch(beta, divergence_factor, accumulate),
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
        return _read_runs(
            self.rates[:number],
            self.runs,
            initial.mean(axis=-1),
            self.beta,
            self.divergence_factor,
            self.accumulate,
            self.lag,
        )


@functools.lru_cache(maxsize=64)
def _divergence_watch(beta: float, factor: float, accumulate: int) -> Watch:
    """Follow the losses and the best of their bias-corrected running mean, from the third loss on."""
    zero = jnp.float32(0)
    start = {
        "sum": zero,  # of the minibatches of one step
        "first": zero,
        "before": (zero, zero),
        "mean": zero,
        "weight": zero,
        "best": jnp.float32(jnp.inf),
    }

    def update(memory: Any, loss: jax.Array, count: jax.Array) -> tuple[Any, jax.Array]:
        total = memory["sum"] + loss / accumulate
        complete = (count + 1) % accumulate == 0
        older, old = memory["before"]
        place = count // accumulate
        known = place >= 2  # three losses, to take the median of
        middle = jnp.maximum(jnp.minimum(older, old), jnp.minimum(jnp.maximum(older, old), total))
        first = jnp.where(place == 2, middle, memory["first"])
        mean = jnp.where(known, beta * memory["mean"] + (1 - beta) * middle, 0.0)
        weight = jnp.where(known, beta * memory["weight"] + (1 - beta), 0.0)
        best = jnp.where(known, jnp.minimum(memory["best"], mean / weight), jnp.inf)
        after = {
            "sum": zero,
            "first": first,
            "before": (old, total),
            "mean": mean,
            "weight": weight,
            "best": best,
        }
        well = ~known | (middle <= divergence_bound(best, first, factor))
        kept = jax.tree.map(lambda new, now: jnp.where(complete, new, now), after, {**memory, "sum": total})
        return kept, well | ~complete

    return Watch(start, update)


def read_losses(
    rates: np.ndarray, losses: np.ndarray, initial: np.ndarray, num_steps: int, *, diverged: bool
) -> RangeTest:
    """Return what the training losses of one run on a ladder show, with the settings of `range_test`.

    Args:
      rates: (steps,) float32, the ladder.
      losses: (steps,) float32, the training loss of each step, before its update; NaN where none was made. Losses
        after the divergence are left out.
      initial: (steps,) float32, the loss of the initial parameters on the same minibatches.
      num_steps: steps of the ladder before it was continued.
      diverged: whether the run ended at a loss that is not finite; one that is too high is found here.
    """
    beta = _default_smoothing(num_steps)
    made, memory, too_high = (np.asarray(x) for x in _follow(beta)(np.asarray(losses, np.float32)))
    seen = np.where(np.arange(len(losses)) < made, losses, np.nan).astype(np.float32)
    best, first = memory.astype(np.float64)
    return _read(rates, seen[None], made[None], best[None], first[None], too_high[None] | diverged, initial[None], beta)


def _default_smoothing(num_steps: int) -> float:
    return float(np.exp(-1 / (WINDOW * num_steps)))


@functools.lru_cache(maxsize=64)
def _follow(beta: float) -> Callable[[np.ndarray], Any]:
    """Return a function of a run's losses: the steps made, the best and the first mean, and whether one is too high."""
    watch = _divergence_watch(beta, DIVERGENCE_FACTOR, 1)

    @jax.jit
    def follow(losses: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def body(carry: Any, at: Any) -> tuple[Any, None]:
            memory, made, too_high = carry
            alive = ~too_high
            loss, count = at
            after, well = watch.update(memory, loss, count)
            finite = jnp.isfinite(loss)
            kept = jax.tree.map(lambda new, old: jnp.where(alive & finite, new, old), after, memory)
            too_high |= alive & finite & ~well
            return (kept, made + (alive & finite), too_high), None

        start = (jax.tree.map(jnp.asarray, watch.memory), jnp.int32(0), jnp.bool_(False))
        (memory, made, too_high), _ = jax.lax.scan(body, start, (losses, jnp.arange(len(losses))))
        return made, jnp.stack([memory["best"], memory["first"]]), too_high

    return follow


def _read_runs(
    rates: np.ndarray, runs: Runs, initial: np.ndarray, beta: float, factor: float, accumulate: int, lag: int
) -> RangeTest:
    """Return what the runs of a ladder show.

    `initial` has the losses of the initial parameters, (seeds, steps).
    """
    losses_by_seed = curves(runs)[:, 0, : len(rates)]
    made = np.asarray(runs.steps)[:, 0] // accumulate  # losses of each seed that are finite
    best, first = (np.asarray(runs.memory[name], np.float64)[:, 0] for name in ("best", "first"))
    diverged = np.asarray(runs.diverged)[:, 0]
    return _read(rates, losses_by_seed, made, best, first, diverged, initial, beta, factor, lag)


def _read(
    rates: np.ndarray,
    losses_by_seed: np.ndarray,
    made: np.ndarray,
    best: np.ndarray,
    first_losses: np.ndarray,
    has_diverged: np.ndarray,
    initial: np.ndarray,
    beta: float,
    factor: float = DIVERGENCE_FACTOR,
    lag: int = 1,
) -> RangeTest:
    """Return what the runs of all seeds show; a loss is the effect of the rate `lag` steps before."""
    limits = np.where(np.isfinite(best), divergence_bound(best, first_losses, factor), np.inf)
    limits = np.where(has_diverged, limits, np.nan)  # what each seed diverged by
    if np.median(made) < 1:
        raise ValueError(
            f"the loss is not finite at the first rate, {rates[0]:g}, which hardly changes the parameters: look at the "
            "data and at the initial parameters, or give a smaller min_rate."
        )
    diverged = np.full(len(losses_by_seed), np.inf)
    for seed in np.flatnonzero(~np.isnan(limits)):
        first = blow_up_place(losses_by_seed[seed, : made[seed]], limits[seed])
        diverged[seed] = rates[max(first - lag, 0)]
    middle = float(np.median(diverged))
    diverged_at = middle if np.isfinite(middle) else None
    last = int(np.median(made))
    losses, smoothed, followed = (
        _median(np.stack([way(curve, beta, factor) for curve in losses_by_seed]), last)
        for way in (lambda curve, *_: curve, smooth_apart, smooth)
    )
    with np.errstate(invalid="ignore"):  # infinite losses of initial parameters
        gains = np.where(np.isfinite(losses_by_seed), initial - losses_by_seed, -np.inf)
    gains = -_median(-gains, last)
    smoothed_gains = -smooth(-gains, beta, factor)
    known = smoothed_gains[np.isfinite(smoothed_gains)]
    gain = float(known.max()) if len(known) else 0.0
    noise = max(noise_of(gains, smoothed_gains, beta), MIN_CHANGE * float(np.abs(np.nanmedian(initial))))
    suggestions: dict[str, float | None] = dict.fromkeys(RULES)
    if gain > noise:
        # If the noise of the minibatches hides what was learnt, follow the gains, which are free of that noise.
        is_seen = smoothed_gains[np.nanargmin(followed)] >= SEEN * gain
        suggestions = suggest(rates, followed if is_seen else -smoothed_gains, diverged_at)
    return RangeTest(rates, losses, smoothed, losses_by_seed, gains, gain, noise, diverged_at, suggestions)


def _median(curves: np.ndarray, last: int) -> np.ndarray:
    """The median over seeds up to a step, NaN from then on; a seed that has diverged counts as infinite."""
    result = np.median(_filled(curves), axis=0)
    result[last:] = np.nan
    return np.where(np.isfinite(result), result, np.nan).astype(np.float32)


def _filled(curves: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(curves), curves, np.inf)
