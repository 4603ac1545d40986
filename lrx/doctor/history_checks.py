"""Checks of a run that is over, by its curves."""

from __future__ import annotations

import dataclasses

import numpy as np

from lrx.doctor.finding import Change, Finding, Remedy
from lrx.doctor.thresholds import Thresholds
from lrx.training.history import History

WINDOWS = 24  # means of the loss, over the run
CHECKED = {
    "diverges": "how the run has ended, and its last losses",
    "overfits": "the evaluation loss after its minimum, against the training loss",
    "noise-floor": "the fall of the loss in the second half of the run, at a rate that does not fall",
}


@dataclasses.dataclass(frozen=True)
class HistoryEvidence:
    """The curves of a run.

    Attributes:
      steps: length of the run.
      ended: as in `History`.
      windows: mean training losses of equally long parts of the run.
      spreads: standard deviations of the losses within them.
      window_rates: mean rates of them, NaN if there is none.
      evaluations: evaluation losses; empty if there are none.
      evaluation_steps: their steps.
    """

    steps: int
    ended: str
    windows: list[float]
    spreads: list[float]
    window_rates: list[float]
    evaluations: list[float]
    evaluation_steps: list[int]


def measure_history(history: History) -> HistoryEvidence:
    """Read the curves of a run."""
    losses = np.asarray(history.loss, np.float64)
    number = max(1, min(WINDOWS, len(losses)))
    parts = np.array_split(losses, number)
    rates = np.array_split(np.asarray(history.rate, np.float64), number)
    evaluated = np.asarray(history.evaluations.get("loss", np.zeros(0)), np.float64)
    return HistoryEvidence(
        steps=len(losses),
        ended=history.ended,
        windows=[float(np.mean(part)) if len(part) else float("nan") for part in parts],
        spreads=[float(np.std(part)) / max(1, len(part)) ** 0.5 if len(part) else float("nan") for part in parts],
        window_rates=[float(np.mean(part)) if len(part) else float("nan") for part in rates],
        evaluations=evaluated.tolist(),
        evaluation_steps=np.asarray(history.evaluation_steps).tolist(),
    )


def check_history(seen: HistoryEvidence, limits: Thresholds) -> list[Finding]:
    """Return what the curves of a run show."""
    found = [check(seen, limits) for check in (_diverged, _overfits, _noise_floor)]
    return [finding for finding in found if finding is not None]


def _diverged(seen: HistoryEvidence, limits: Thresholds) -> Finding | None:
    windows = np.array(seen.windows)
    if not len(windows):
        return None
    first, last = windows[0], windows[-1]
    risen = not np.isfinite(last) or last - first > limits.diverged * abs(first)
    if seen.ended != "diverged" and not risen:
        return None
    return Finding(
        "diverges",
        "certain",
        1.0,
        f"The run begins with a loss of {first:.3g} and ends with {last:.3g}"
        + (", at a loss that is not finite." if seen.ended == "diverged" else "."),
        {"first_loss": float(first), "last_loss": float(last), "steps": seen.steps},
        Remedy(
            "Lower the rate, or warm it up; lrx.diagnose(workload, tx, steps=...) suggests a rate.",
            Change(rate_factor=0.1),
        ),
    )


def _overfits(seen: HistoryEvidence, limits: Thresholds) -> Finding | None:
    losses = np.array(seen.evaluations, float)
    if len(losses) < 3 or not np.isfinite(losses).all():
        return None
    low = int(np.argmin(losses))
    best, last = float(losses[low]), float(np.mean(losses[-2:]))
    rise = (last - best) / max(abs(best), 1e-30)
    step = int(seen.evaluation_steps[low])
    place = min(len(seen.windows) - 1, int(step / max(seen.steps, 1) * len(seen.windows)))
    fallen = seen.windows[place] - seen.windows[-1] > -2 * seen.spreads[-1]
    if low >= len(losses) - 2 or rise < limits.overfit_rise or not fallen:
        return None
    return Finding(
        "overfits",
        "certain" if rise > 4 * limits.overfit_rise else "likely",
        1 - step / max(seen.steps, 1),
        f"The evaluation loss is lowest at step {step:,}, {best:.3g}, and {last:.3g} at the end, while the training "
        "loss goes on falling.",
        {"best_evaluation": best, "last_evaluation": last, "best_step": step, "steps": seen.steps},
        Remedy(
            'Keep the best parameters, lrx.train(..., keep_best="loss"), train shorter, add data or regularise.',
            Change(steps=max(1, step)),
        ),
    )


def _noise_floor(seen: HistoryEvidence, limits: Thresholds) -> Finding | None:
    windows, rates = np.array(seen.windows), np.array(seen.window_rates)
    half = len(windows) // 2
    if half < 4 or not np.isfinite(windows).all() or not np.isfinite(rates).all():
        return None
    later = rates[half:]
    if later[-1] < limits.steady_rate * rates.max():
        return None
    first, middle, last = (
        windows[0],
        float(np.mean(windows[half : half + half // 2])),
        float(np.mean(windows[-half // 2 :])),
    )
    fall = (middle - last) / max(first - last, 1e-30)
    if first <= last or fall > limits.floor_fall_hint:
        return None
    has_ended = fall <= limits.floor_fall
    why = "the noise of the minibatches holds it up" if has_ended else "one that falls would probably end lower"
    return Finding(
        "noise-floor",
        "likely" if has_ended else "hint",
        0.3,
        f"In the second half of the run the loss falls by {max(fall, 0):.1%} of its whole fall, at a rate that stays "
        f"at {later[-1] / rates.max():.0%} of its peak: {why}.",
        {"fall_in_second_half": fall, "loss": last, "rate": float(later[-1])},
        Remedy("Let the rate fall to zero in the last part of the run.", Change(decay_to_zero=int(0.6 * seen.steps))),
    )
