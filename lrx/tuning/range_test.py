"""The learning-rate range test: one short run through all rates shows which of them train."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrx import _checks
from lrx.figures import DARK, LIGHT, PALETTE, STROKES, legend, panels
from lrx.optimizers.accumulation import accumulate as accumulated
from lrx.training.many import RunFamily, Runs, Watch
from lrx.training.plan import choose_plan
from lrx.training.progress import reporter, require_progress
from lrx.training.runs import curves
from lrx.tuning.learnt import LEAST, InitialLoss
from lrx.tuning.problem import as_seeds, as_workload, require_no_accumulation, require_trains
from lrx.tuning.space import try_out_rates
from lrx.tuning.suggestions import (
    RULE_TITLES,
    RULES,
    blow_up_place,
    divergence_bound,
    noise_of,
    smooth,
    smooth_apart,
    suggest,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = ("rates", "losses", "smoothed", "losses_by_seed", "gains")
LADDERS = ("exponential", "linear", "doubling")
FEWEST_STEPS = 6  # of a ladder: with fewer points nothing can be told
WINDOW = 1 / 20  # of the ladder, what the smoothing reaches over on either side
SEEN = 0.5  # of the highest gain, which the lowest loss has at least where it is not low by chance
BEYOND = 1e4  # times the last rate, which a ladder that shows nothing goes on to at most


@dataclasses.dataclass(frozen=True, eq=False)
class RangeTest:
    """What a range test found.

    Attributes:
      rates: (steps,) float32, the ladder.
      losses: (steps,) float32, the loss at each rate, the median over seeds; NaN after divergence.
      smoothed: (steps,) float32, the same, smoothed up to where the loss rises for good, and after that; NaN after
        divergence.
      losses_by_seed: (seeds, steps) float32.
      gains: (steps,) float32, by how much the loss at each rate is below that of the initial parameters on the same
        minibatch, the median over seeds; NaN after divergence.
      gain: the highest of these, smoothed.
      noise: by how much that may lie above zero by chance, and at least a thousandth of the loss. Where it does not lie
        further above, nothing was learnt at any rate, and no rule suggests one.
      diverged_at: the rate of the step after which the loss was too high for good, the median over seeds; None where
        it never was.
      suggestions: rule to rate, None where a rule finds none: "steepest", where the smoothed loss falls fastest in the
        logarithm of the rate; "valley", the middle of its longest descent, from a tenth to nine tenths of the fall;
        "minimum", a tenth of the rate at its minimum; "slide", the left end of an interval that slides from the
        minimum to the left until the slopes at its ends are alike; "divergence", a tenth of `diverged_at`.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    losses_by_seed: np.ndarray
    gains: np.ndarray
    gain: float
    noise: float
    diverged_at: float | None
    suggestions: dict[str, float | None]

    @property
    def suggestion(self) -> float:
        """One rate to start with: a tenth of that at the minimum, or else the first that another rule gives.

        Raises:
          ValueError: if no rule gives one, because nothing was learnt at any rate.
        """
        for rule in ("minimum", *RULES):
            rate = self.suggestions[rule]
            if rate is not None:
                return rate
        tried = f"no rate from {self.rates[0]:g} to {self.rates[-1]:g}"
        if self.diverged_at is not None:
            raise ValueError(
                f"{tried} made the loss fall before it diverged at {self.diverged_at:.2g}: give more num_steps, so "
                "that each rate has longer, or a smaller min_rate if it rises from the start, and look at the "
                "gradients, which may be zero where training starts."
            )
        if self._is_flat():
            raise ValueError(
                f"{tried} changed the loss: give more num_steps or a larger max_rate, or look at the gradients, which "
                "may be zero where training starts."
            )
        raise ValueError(
            f"{tried} made the loss fall, and higher ones made it rise: give more num_steps or a smaller min_rate, or "
            "look at the gradients."
        )

    def _is_flat(self) -> bool:
        """Return whether the loss neither fell nor rose, on the minibatches that it was measured on."""
        known = self.gains[np.isfinite(self.gains)]
        rise = -float(np.median(known[-FEWEST_STEPS:])) if len(known) else 0.0
        return self.diverged_at is None and max(self.gain, rise) <= self.noise

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return all of it as arrays, for a checkpoint."""
        numbers = {name: np.array([getattr(self, name)]) for name in ("gain", "noise")}
        numbers["diverged_at"] = np.array([np.nan if self.diverged_at is None else self.diverged_at])
        return (
            numbers
            | {name: getattr(self, name) for name in CURVES}
            | {
                f"suggestions/{rule}": np.array([np.nan if rate is None else rate])
                for rule, rate in self.suggestions.items()
            }
        )

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> RangeTest:
        """Build a range test from what `to_arrays` returned."""
        numbers = {name: float(values[0]) for name, values in arrays.items() if name not in CURVES}
        known = {name: None if np.isnan(number) else number for name, number in numbers.items()}
        return cls(
            **{name: arrays[name] for name in CURVES},
            gain=numbers["gain"],
            noise=numbers["noise"],
            diverged_at=known["diverged_at"],
            suggestions={rule: known[f"suggestions/{rule}"] for rule in RULES},
        )

    def plot(self, *, title: str = "") -> Figure:
        """Draw the loss over the rates, with the spread over seeds and the suggestions; needs matplotlib.

        Args:
          title: what was tested, such as "digits: sgd".
        """
        figure, (axes,) = panels(size=(8.0, 4.5))
        if len(self.losses_by_seed) > 1:
            with np.errstate(all="ignore"):
                low, high = (np.nanquantile(_filled(self.losses_by_seed), q, axis=0) for q in (0.0, 1.0))
            axes.fill_between(self.rates, low, high, color="#B8C4CE", alpha=0.6, lw=0, label="range over seeds")
        axes.plot(self.rates, self.losses, color=LIGHT, lw=0.8, label="loss")
        axes.plot(self.rates, self.smoothed, color=DARK, lw=2, label="smoothed")
        known = self.smoothed[np.isfinite(self.smoothed)]
        low, first = float(np.nanmin(self.losses)), float(known[0])
        margin = 0.1 * max(first - low, 0.1 * abs(first), 1e-12)
        axes.set_ylim(low - margin, max(first, float(np.nanmax(self.losses[: len(known) // 2 + 1]))) + 5 * margin)
        for rule, color, stroke in zip(RULES, PALETTE, STROKES, strict=False):
            rate = self.suggestions[rule]
            if rate is not None:
                axes.axvline(rate, color=color, ls=stroke, lw=1.5, label=f"{RULE_TITLES.get(rule, rule)}: {rate:.2g}")
        if self.diverged_at is not None:
            axes.axvline(self.diverged_at, color=DARK, lw=0.8, alpha=0.5, label=f"diverged: {self.diverged_at:.2g}")
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss")
        nothing = "" if any(self.suggestions.values()) else "nothing was learnt at any rate"
        axes.set_title("\n".join(filter(None, (title, nothing))), loc="left", fontsize=10)
        legend(figure, axes, 1, loc="outside right upper")
        return figure

    def __repr__(self) -> str:
        tried = f"{len(self.rates)} rates from {self.rates[0]:.3g} to {self.rates[-1]:.3g}"
        end = "did not diverge" if self.diverged_at is None else f"diverged at {self.diverged_at:.2g}"
        found = [f"{rule} {rate:.2g}" for rule, rate in self.suggestions.items() if rate is not None]
        return f"RangeTest({tried}, {end}; {', '.join(found) or 'nothing was learnt at any rate'})"


def range_test(
    loss_fn: Any,
    init_fn: Callable[[jax.Array], Any] | None = None,
    *,
    batches: Any = None,
    tx: Callable[[Any], optax.GradientTransformation],
    min_rate: float = 1e-7,
    max_rate: float = 10.0,
    num_steps: int = 100,
    ladder: str = "exponential",
    smoothing: float | None = None,
    divergence_factor: float = 4.0,
    accumulate: int = 1,
    validation_batch: Any = None,
    has_state: bool = False,
    seeds: int | Sequence[int] = 1,
    extend: bool = True,
    progress: bool | str | None = None,
) -> RangeTest:
    """Train for a moment while the rate rises from far too small to far too large, and look at the loss.

    With n = `num_steps`, step i has the rate `min_rate (max_rate / min_rate)^(i / (n - 1))` (or a linear ladder, or one
    that doubles: `min_rate 2^floor(i m / n)` for the m powers up to `max_rate`), which hits both ends. The test is one
    compiled loop and stops where it diverges: at a loss that is not finite, or that is above the best running mean b
    by more than `(divergence_factor - 1) max(|b|, (l_0 - b) / 10)`, l_0 the median of the first three losses. Single
    outliers are no divergence: losses go through a median of three first. Which rate it was is told afterwards: the
    first loss of those at the end that are all too high was measured after the step with `diverged_at`. The curve that
    the suggestions follow has no lag: with the losses l, cut off at that bound,

        s_i = sum_j beta^|i - j| l_j / sum_j beta^|i - j|

    so the ends are not biased. Each loss is compared with that of the initial parameters on the same minibatch. Where
    no rate makes a difference, the ladder goes on in its own steps, for as many again or up to 10,000 `max_rate`; where
    none makes the loss fall, no rate is suggested. Nothing of the caller's is changed.

    Args:
      loss_fn: a `Workload`; or a function `(params, batch, key) -> loss`.
      init_fn: `key -> params`; not with a `Workload`.
      batches: an `lrx.training.Batches`; or arrays whose leading axis counts batches, over which steps go round; or an
        iterable of batches.
      tx: `rate -> transformation`, such as `lrx.adam` or `lambda rate: lrx.sgd(rate, momentum=0.9)`; it gets a tracer.
      min_rate: the first rate, > 0.
      max_rate: the last rate, > min_rate.
      num_steps: rates on the ladder, at least 6.
      ladder: "exponential", "linear" or "doubling".
      smoothing: beta, in [0, 1); by default e^(-20 / n), which reaches over a twentieth of the ladder.
      divergence_factor: > 1, as above.
      accumulate: minibatches whose mean gradient makes one step.
      validation_batch: a batch whose loss after each step is looked at, in place of the training loss before it.
      has_state: `loss_fn` is `(params, model_state, batch, key) -> (loss, model_state)`, and `init_fn` gives both.
      seeds: how many runs, with seeds 0, 1, ..., or the seeds; they run side by side.
      extend: whether the ladder may go on beyond `max_rate`, as above.
      progress: True shows a bar, or lines where there is no terminal; by default a bar, on a terminal alone; a string
        is its title; False shows nothing.

    Returns:
      A `RangeTest`. Its `suggestion` raises an error where nothing was learnt at any rate.

    Raises:
      ValueError: if an argument is out of its range, `tx` ascends (`lrx.direction`) or accumulates gradients, an
        iterable of batches ends early, or the loss is not finite at the first rate.
      TypeError: if an argument is of another kind.

    Differs from the source:
      The smoothing does not lag, so no suggestion has to be moved back by a factor; the ladder ends at `max_rate`.

    Source:
      L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, arXiv:1506.01186, section 3.3; the
      rules for suggestions follow fastai's learner (J. Howard, S. Gugger, 2018).

    Example:
      >>> import jax, jax.numpy as jnp, lrx
      >>> from lrx.training import Batches
      >>> x = jnp.linspace(-1.0, 1.0, 64)
      >>> found = lrx.range_test(
      ...     lambda slope, batch, key: jnp.mean((slope * batch[0] - batch[1]) ** 2),
      ...     lambda key: jax.random.normal(key),
      ...     batches=Batches((x, 3.0 * x), batch_size=16),
      ...     tx=lrx.sgd,
      ...     max_rate=100.0,
      ... )
      >>> 0.01 < found.suggestion < 3 < found.diverged_at
      True
    """
    rates = _ladder(min_rate, max_rate, num_steps, ladder)
    try_out_rates(tx, rates[[0, -1]])
    if smoothing is not None:
        _checks.in_interval("smoothing", smoothing, "[0, 1)", "at 1 all losses would count alike")
    beta = float(np.exp(-1 / (WINDOW * num_steps))) if smoothing is None else float(smoothing)
    _checks.above("divergence_factor", divergence_factor, 1, "it multiplies the best loss")
    _checks.steps("accumulate", accumulate, unit="minibatches")
    _checks.flag("extend", extend)
    require_progress(progress)
    seed_array = as_seeds(seeds)
    total = num_steps * accumulate
    workload = as_workload(loss_fn, init_fn, batches, has_state=has_state, num_batches=total)
    require_no_accumulation(workload, tx(float(rates[0])))
    require_trains(workload, tx(float(rates[0])))
    longer = np.concatenate([rates, _beyond(rates, ladder)]) if extend else rates
    table = jnp.asarray(longer)

    def make_tx(hyper: Any, count: jax.Array) -> optax.GradientTransformation:
        del hyper
        made = tx(table[count // accumulate])
        return made if accumulate == 1 else accumulated(made, accumulate)

    measure = None
    if validation_batch is not None:

        def measure(params: Any, model_state: Any, key: jax.Array) -> jax.Array:
            return workload.loss_fn(params, model_state, validation_batch, key)[0]

    watch = _divergence_watch(beta, float(divergence_factor), accumulate)
    family = RunFamily(workload, make_tx, len(longer) * accumulate, len(longer), watch, measure)
    alone = {"member": np.zeros(1)}  # a single one, whose rate is in the ladder
    status = reporter(
        progress,
        f"range test, {workload.name}",
        step=0,
        total=total,
        batch_size=workload.batches.batch_size,
        unit="examples",
    )
    lag = 0 if validation_batch is not None else 1  # a training loss is that before the step

    def advanced(runs: Runs, first: int, rates: np.ndarray) -> Runs:
        """Go on from minibatch `first` to the end of a ladder."""
        total = len(rates) * accumulate
        for stop in np.linspace(first, total, 11).astype(int)[1:] if status.is_seen else [total]:
            runs = plan.advance(runs, alone, seed_array, first, int(stop))
            first = int(stop)
            if status.is_seen:
                made = -(-first // accumulate)
                known = curves(runs)[0, 0, :made]
                known = known[np.isfinite(known)]
                status.update(first, float(known[-1]) if len(known) else np.nan, float(rates[made - 1]))
        return runs

    measured_on = workload
    if validation_batch is not None:

        def validation_loss(params: Any, model_state: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, Any]:
            del batch
            return workload.loss_fn(params, model_state, validation_batch, key)

        measured_on = dataclasses.replace(workload, loss_fn=validation_loss)
    initial_loss = InitialLoss(measured_on)

    def found(runs: Runs, rates: np.ndarray) -> RangeTest:
        made = int(np.max(runs.steps)) // accumulate
        initial = np.full((len(seed_array), len(rates), accumulate), np.nan, np.float32)
        for place, seed in enumerate(seed_array):
            initial[place, :made] = initial_loss.losses(seed, 0, made * accumulate).reshape(made, accumulate)
        return _found(rates, runs, initial.mean(axis=-1), beta, float(divergence_factor), accumulate, lag)

    with status:
        plan = choose_plan(family, alone, seed_array, strategy="map" if len(seed_array) == 1 else "vmap")
        runs = plan.start(alone, seed_array)
        status.start()
        runs = advanced(runs, 0, rates)
        test = found(runs, rates)
        if len(longer) > len(rates) and test._is_flat():
            status.total = len(longer) * accumulate
            runs = advanced(runs, total, longer)
            test = found(runs, longer)
    return test


def _ladder(min_rate: Any, max_rate: Any, num_steps: Any, kind: str) -> np.ndarray:
    _checks.positive("min_rate", min_rate, "the ladder is one of factors")
    _checks.positive("max_rate", max_rate)
    if max_rate <= min_rate:
        raise ValueError(f"max_rate must be above min_rate, got max_rate={max_rate}, min_rate={min_rate}: swap them.")
    _checks.steps("num_steps", num_steps, at_least=FEWEST_STEPS, hint="with fewer rates nothing can be told")
    _checks.one_of("ladder", kind, LADDERS)
    places = np.arange(num_steps) / (num_steps - 1)
    if kind == "linear":
        rates = min_rate + (max_rate - min_rate) * places
    elif kind == "doubling":
        doublings = int(np.floor(np.log2(max_rate / min_rate) + 1e-9)) + 1
        return (min_rate * 2.0 ** (np.arange(num_steps) * doublings // num_steps)).astype(np.float32)
    else:
        rates = min_rate * (max_rate / min_rate) ** places
    rates[0], rates[-1] = min_rate, max_rate
    return rates.astype(np.float32)


def _beyond(rates: np.ndarray, kind: str) -> np.ndarray:
    """Return where a ladder goes on: in its own steps, for as many again, or up to `BEYOND` times its last rate."""
    ends, last = rates[[0, -1]].astype(np.float64), float(rates[-1])
    places = np.arange(1, len(rates) + 1)
    with np.errstate(over="ignore"):
        if kind == "linear":
            more = last + (last - ends[0]) / (len(rates) - 1) * places
        elif kind == "doubling":
            doublings = len(np.unique(rates))
            more = last * 2.0 ** (1 + (places - 1) * doublings // len(rates))
        else:
            more = last * (last / ends[0]) ** (places / (len(rates) - 1))
    most = min(BEYOND * last, float(np.finfo(np.float32).max))
    return more[more <= most * (1 + 1e-6)].astype(np.float32)


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
        known = place >= 2  # three losses, of which the median is taken
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


def _found(
    rates: np.ndarray, runs: Runs, initial: np.ndarray, beta: float, factor: float, accumulate: int, lag: int
) -> RangeTest:
    """Read the runs of a ladder; a loss tells what a rate did `lag` steps before.

    `initial` are the losses of the initial parameters, (seeds, steps).
    """
    losses_by_seed = curves(runs)[:, 0, : len(rates)]
    made = np.asarray(runs.steps)[:, 0] // accumulate  # losses of each seed that are finite
    best, first_losses = (np.asarray(runs.memory[name], np.float64)[:, 0] for name in ("best", "first"))
    limits = np.where(np.isfinite(best), divergence_bound(best, first_losses, factor), np.inf)
    limits = np.where(np.asarray(runs.diverged)[:, 0], limits, np.nan)  # what each seed diverged by
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
    noise = max(noise_of(gains, smoothed_gains, beta), LEAST * float(np.abs(np.nanmedian(initial))))
    suggestions: dict[str, float | None] = dict.fromkeys(RULES)
    if gain > noise:
        # Where the noise of the minibatches hides what was learnt, without that noise.
        is_seen = smoothed_gains[np.nanargmin(followed)] >= SEEN * gain
        suggestions = suggest(rates, followed if is_seen else -smoothed_gains, diverged_at)
    return RangeTest(rates, losses, smoothed, losses_by_seed, gains, gain, noise, diverged_at, suggestions)


def _median(curves: np.ndarray, last: int) -> np.ndarray:
    """The median over seeds up to a step, NaN from then on; a seed that has ended counts as infinite."""
    result = np.median(_filled(curves), axis=0)
    result[last:] = np.nan
    return np.where(np.isfinite(result), result, np.nan).astype(np.float32)


def _filled(curves: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(curves), curves, np.inf)
