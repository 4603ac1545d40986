"""Checks of the rate by pilot runs, which differ by the rate only."""

from __future__ import annotations

import dataclasses

import numpy as np

from lrx.doctor.finding import Change, Finding, Remedy
from lrx.doctor.thresholds import Thresholds

WARMUP_SHARE = 0.1  # of the run, for a warm-up that is missing: the usual ones take 1 % to 10 %
CHECKED = {
    "diverges": "the loss of a pilot run",
    "rate-too-high": "pilot runs at lower rates",
    "rate-too-low": "pilot runs at higher rates",
    "warmup-missing": "a pilot run that begins with lower rates",
}


@dataclasses.dataclass(frozen=True)
class Branch:
    """A pilot run.

    Attributes:
      factor: of the rate.
      kind: "scaled", or "warm" if as many steps at an eighth of the rate come before.
      losses: of its steps.
    """

    factor: float
    kind: str
    losses: list[float]


@dataclasses.dataclass(frozen=True)
class RateEvidence:
    """Pilot runs from the initial parameters, on the same minibatches.

    Attributes:
      branches: the runs.
      initial: loss of the initial parameters on the last minibatches.
      steps: steps of each.
      updates: length of the run in updates.
      run_steps: length of the run in minibatches.
    """

    branches: list[Branch]
    initial: float
    steps: int
    updates: int
    run_steps: int


def last_steps(number: int) -> int:
    """Return the number of last steps of a branch whose losses are averaged."""
    return max(2, number // 4)


def end_loss(branch: Branch) -> float:
    """Return the mean loss of the last quarter of a branch; infinite if it has diverged."""
    return float(np.mean(_finite_or_infinite(branch)[-last_steps(len(branch.losses)) :]))


def highest_loss(branch: Branch) -> float:
    """Return the highest loss of a branch; infinite if it has diverged."""
    return float(np.max(_finite_or_infinite(branch)))


def _finite_or_infinite(branch: Branch) -> np.ndarray:
    """Return the losses of a branch; those that are not finite are infinite."""
    losses = np.array([np.inf if loss is None else loss for loss in branch.losses], float)
    return np.where(np.isfinite(losses), losses, np.inf)


def best_factor(seen: RateEvidence) -> tuple[float, float]:
    """Return the factor of the rate with the lowest end, and that end; between the factors by a parabola."""
    scaled = sorted((branch for branch in seen.branches if branch.kind == "scaled"), key=lambda branch: branch.factor)
    ends = np.array([end_loss(branch) for branch in scaled])
    places = np.log(np.array([branch.factor for branch in scaled]))
    if not np.isfinite(ends).any():
        return float("nan"), float("inf")
    low = int(np.argmin(ends))
    worst = max(seen.initial, float(ends[low])) + abs(seen.initial)
    capped = np.minimum(ends, worst)
    if 0 < low < len(ends) - 1:
        a, b, _ = np.polyfit(places[low - 1 : low + 2] - places[low], capped[low - 1 : low + 2], 2)
        if a > 0:
            shift = np.clip(-b / (2 * a), places[low - 1] - places[low], places[low + 1] - places[low])
            return float(np.exp(places[low] + shift)), float(ends[low])
    return float(np.exp(places[low])), float(ends[low])


def relative_fall(seen: RateEvidence) -> float:
    """Return the largest fall of the loss in a branch, relative to its beginning."""
    return (seen.initial - best_factor(seen)[1]) / max(abs(seen.initial), 1e-30)


def check_rates(seen: RateEvidence, limits: Thresholds) -> list[Finding]:
    """Return whether the rate is too high or too low, or needs a warm-up."""
    own = next(branch for branch in seen.branches if branch.kind == "scaled" and branch.factor == 1)
    end = end_loss(own)
    best, least = best_factor(seen)
    gain = seen.initial - least
    numbers = {"initial_loss": seen.initial, "loss": end, "best_factor": best, "best_loss": least, "steps": seen.steps}
    if not np.isfinite(seen.initial):
        return []
    found: list[Finding] = []
    learns = relative_fall(seen) > limits.learnt
    lost = (end - least) / gain if learns else 0.0
    warm = min((branch for branch in seen.branches if branch.kind == "warm"), key=end_loss, default=None)
    if warm is not None and learns:
        level = _needs_warmup(seen, own, warm, least, limits)
        if level is not None:
            more = {"loss_with_warmup": end_loss(warm), "highest_loss": highest_loss(own)}
            more["highest_loss_with_warmup"] = highest_loss(warm)
            found.append(_warmup_missing(numbers | more, level, lost, seen.updates))
    if not np.isfinite(end) or end - seen.initial > limits.diverged * max(abs(seen.initial), gain):
        found.append(_diverges(numbers, limits))
        if best < limits.high_factor:
            found.append(_wrong_rate("rate-too-high", numbers, 1.0, True, limits))
        return found
    if not learns:
        return found
    if best < limits.high_factor and lost > limits.high_lost:
        risen = end - seen.initial > limits.high_rise * max(abs(seen.initial), gain)
        found.append(_wrong_rate("rate-too-high", numbers, lost, risen, limits))
    if best > limits.low_factor_hint and lost > limits.low_lost:
        found.append(_wrong_rate("rate-too-low", numbers, lost, not _made_up_for(best, seen), limits))
    return found


def _made_up_for(best: float, seen: RateEvidence) -> bool:
    """Return whether the length of the run makes up for a rate below the best one of pilot runs.

    With small steps, the loss depends on the sum of the rates. The whole run, which is `run_steps / steps` times as
    long, goes at its own rate as far as a pilot run at so many times the rate. If the best pilot run does not go
    farther, it ends lower only because it had to hurry, and nothing shows that the whole run ends too early.
    """
    return best <= seen.run_steps / seen.steps


def _change(numbers: dict[str, float], limits: Thresholds) -> Change:
    """Return the change to the best rate of a whole run, which is lower than that of a pilot run."""
    best = numbers["best_factor"]
    return Change(rate_factor=float(f"{(best if np.isfinite(best) else 1e-2) / limits.horizon:.2g}"))


def _diverges(numbers: dict[str, float], limits: Thresholds) -> Finding:
    how = f"rises to {numbers['loss']:.3g}" if np.isfinite(numbers["loss"]) else "is not finite"
    change = _change(numbers, limits)
    return Finding(
        "diverges",
        "certain",
        1.0,
        f"In a pilot run the loss begins at {numbers['initial_loss']:.3g} and {how}.",
        numbers,
        Remedy(f"Multiply the rate by {change.rate_factor:g}.", change),
    )


def _needs_warmup(seen: RateEvidence, own: Branch, warm: Branch, least: float, limits: Thresholds) -> str | None:
    """Return the level at which a warm-up is missing; None if it is not.

    The branch that begins with lower rates has made twice the steps, so that it may end lower for that alone: this is a
    hint at most. It is likely if the full rate also makes the loss rise at the beginning, far for a while or for good.
    """
    gain = seen.initial - least
    lost, short = (end_loss(own) - least) / gain, (end_loss(warm) - least) / gain
    far = seen.initial + limits.warm_rise * max(abs(seen.initial), gain)
    rises = highest_loss(own) > far >= highest_loss(warm)
    stays_up = end_loss(own) > seen.initial + limits.warm_rise * gain
    if lost > limits.warm_lost and short < limits.warm_near:
        return "likely" if rises or stays_up else "hint"
    return "hint" if rises and lost > limits.warm_lost_hint and short < limits.warm_near_hint else None


def _warmup_missing(numbers: dict[str, float], level: str, lost: float, updates: int) -> Finding:
    steps = max(1, round(WARMUP_SHARE * updates))
    return Finding(
        "warmup-missing",
        level,
        min(1.0, lost),
        f"At the full rate the loss of a pilot run begins at {numbers['initial_loss']:.3g}, goes up to "
        f"{numbers['highest_loss']:.3g} and ends at {numbers['loss']:.3g}. After as many steps at an eighth of the "
        f"rate it goes up to {numbers['highest_loss_with_warmup']:.3g} and ends at {numbers['loss_with_warmup']:.3g}. "
        f"The best end of any rate is {numbers['best_loss']:.3g}.",
        numbers,
        Remedy(f"Warm up the rate over the first {steps:,} updates.", Change(warmup_steps=steps)),
    )


def _wrong_rate(code: str, numbers: dict[str, float], lost: float, sure: bool, limits: Thresholds) -> Finding:
    """Return the finding that another rate ends lower, `rate-too-high` or `rate-too-low`."""
    change = _change(numbers, limits)
    return Finding(
        code,
        "likely" if sure else "hint",
        min(1.0, lost),
        f"In pilot runs, {numbers['best_factor']:.2g} times the rate reaches a loss of {numbers['best_loss']:.3g}, "
        f"and the rate itself one of {numbers['loss']:.3g}.",
        numbers,
        Remedy(f"Multiply the rate by {change.rate_factor:g}.", change),
    )
