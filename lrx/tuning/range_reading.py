"""What the losses on a ladder of rates show: where they diverge, how much was learnt, and which rates to use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrx.training.many import Runs, Watch
from lrx.training.runs import curves
from lrx.tuning.initial_loss import MIN_CHANGE
from lrx.tuning.range_test_result import RangeTest
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
DIVERGENCE_FACTOR = 4.0  # as the argument divergence_factor of `range_test`


@functools.lru_cache(maxsize=64)
def divergence_watch(beta: float, factor: float, accumulate: int) -> Watch:
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
    beta = default_smoothing(num_steps)
    made, memory, too_high = (np.asarray(x) for x in _follow(beta)(np.asarray(losses, np.float32)))
    seen = np.where(np.arange(len(losses)) < made, losses, np.nan).astype(np.float32)
    best, first = memory.astype(np.float64)
    return _read(rates, seen[None], made[None], best[None], first[None], too_high[None] | diverged, initial[None], beta)


def default_smoothing(num_steps: int) -> float:
    """Return the decay of the running mean of the losses of a ladder of `num_steps` steps."""
    return float(np.exp(-1 / (WINDOW * num_steps)))


@functools.lru_cache(maxsize=64)
def _follow(beta: float) -> Callable[[np.ndarray], Any]:
    """Return a function of a run's losses: the steps made, the best and the first mean, and whether one is too high."""
    watch = divergence_watch(beta, DIVERGENCE_FACTOR, 1)

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


def read_runs(
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
