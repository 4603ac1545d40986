"""Checks of a schedule against the length of the run; nothing is trained.

The schedule is read as a curve, so that one's own functions are checked like the library's families.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from lrx.doctor.finding import Change, Finding, Remedy
from lrx.doctor.optimizer_parts import OptimizerParts
from lrx.doctor.thresholds import Thresholds
from lrx.transformations import Built

MOST_POINTS = 20_000  # of the curve within the run
BEYOND = 64.0  # runs: how far the curve is read beyond the end
FULL = 0.98  # of the peak: the warm-up has ended
SAME = 1e-6  # difference of two rates, relative to the peak, below which they are the same
FALLEN = 0.002  # of the peak: a rate below moves nothing
CHECKED = {
    "warmup-too-long": "the steps to the peak of the schedule, against the run",
    "schedule-ends-early": "the step from which the schedule is constant, against the run",
    "schedule-never-ends": "the rate at the end of the run, against that at the end of the schedule",
    "restart-cut": "the rate at the end of the run, against the cycles of the schedule",
    "schedule-counts-minibatches": "the length of the schedule in updates, against the minibatches of the run",
}


@dataclasses.dataclass(frozen=True)
class ScheduleEvidence:
    """A schedule as a curve over a run; durations in updates.

    Attributes:
      updates: length of the run.
      minibatches: length of the run in minibatches.
      peak: the largest rate within the run and beyond.
      first: the first rate, relative to the peak.
      last: the rate of the last update, relative to the peak.
      end: the rate at which the schedule stays after its end, relative to the peak; NaN if it has no end.
      warmup_steps: updates until the rate is at 98 % of the peak; 0 if it does not rise at first.
      full_steps: updates until the schedule stays at its end; NaN if it has no end.
      active_steps: updates until the rate stays below 0.2 % of the peak within the run.
      restarts: how often the rate rises again within the run.
      cycle_steps: updates of a cycle, NaN if there is no more than one in the run and beyond.
      last_cycle: the part of the last cycle that the run makes, from 0 to 1; NaN likewise.
      rises_by_design: whether a long rise is the idea of the schedule's family.
      points: the steps of `curve`.
      curve: the rates within the run, for the picture.
    """

    updates: int
    minibatches: int
    peak: float
    first: float
    last: float
    end: float
    warmup_steps: int
    full_steps: float
    active_steps: int
    restarts: int
    cycle_steps: float
    last_cycle: float
    rises_by_design: bool
    points: list[int]
    curve: list[float]


def measure_schedule(parts: OptimizerParts, steps: int) -> ScheduleEvidence | None:
    """Read the schedule of an optimizer over a run; None if it cannot be read."""
    if parts.schedule is None:
        return None
    inside = parts.every > 1 and not parts.counts_minibatches
    updates = max(1, steps // parts.every) if inside else steps
    families = set(_families(parts.schedule))
    return measure_curve(parts.rates, updates, steps, bool(families & {"one_cycle", "cyclical"}))


def _families(schedule: Any) -> list[str]:
    if not isinstance(schedule, Built) or schedule.factory is None:
        return []
    below = [value for value in schedule.arguments.values()]
    below += [part for value in below if isinstance(value, list | tuple) for part in value]
    return [schedule.family, *(name for value in below for name in _families(value))]


def measure_curve(
    rates: Callable[[np.ndarray], np.ndarray], updates: int, minibatches: int, rises_by_design: bool = False
) -> ScheduleEvidence:
    """Read a curve of rates, a function of counts, over a run of so many updates."""
    stride = max(1, updates // MOST_POINTS)
    within = np.unique(np.append(np.arange(0, updates, stride), updates - 1))
    far = np.unique(np.geomspace(updates, max(BEYOND * updates, updates + 2), 600).astype(np.int64))
    counts = np.concatenate([within, far])
    values = np.nan_to_num(np.asarray(rates(counts), np.float64), nan=0.0, posinf=float(np.finfo(np.float32).max))
    peak = float(values.max()) or 1.0
    curve, beyond = values[: len(within)] / peak, values / peak
    full = np.flatnonzero(beyond >= FULL)
    first = int(full[0]) if len(full) else 0
    rises = beyond[0] < FULL / 2 and bool(np.all(np.diff(beyond[: first + 1]) >= -1e-6))
    warmup_steps = int(counts[first]) if rises else 0
    full_steps, end = _end_of(rates, counts, beyond, peak)
    active = np.flatnonzero(curve > FALLEN)
    restarts, cycle, part = _cycles(counts, beyond, updates)
    shown = np.unique(np.linspace(0, len(within) - 1, 400).astype(int))
    return ScheduleEvidence(
        updates=updates,
        minibatches=minibatches,
        peak=peak,
        first=float(curve[0]),
        last=float(curve[-1]),
        end=end,
        warmup_steps=warmup_steps,
        full_steps=full_steps,
        active_steps=int(within[active[-1]]) + 1 if len(active) else 0,
        restarts=restarts,
        cycle_steps=cycle,
        last_cycle=part,
        rises_by_design=rises_by_design,
        points=within[shown].tolist(),
        curve=(curve[shown] * peak).tolist(),
    )


def _end_of(
    rates: Callable[[np.ndarray], np.ndarray], counts: np.ndarray, values: np.ndarray, peak: float
) -> tuple[float, float]:
    """Return the count from which a curve is constant, and its value there; NaN if it changes to the last point."""
    end = float(values[-1])
    differ = np.flatnonzero(np.abs(values - end) > SAME)
    if not len(differ):
        return 0.0, end
    if differ[-1] >= len(values) - 2:
        return float("nan"), float("nan")
    low, high = int(counts[differ[-1]]), int(counts[differ[-1] + 1])
    while high - low > 1:
        middle = (low + high) // 2
        if abs(float(rates(np.array([middle]))[0]) / peak - end) > SAME:
            low = middle
        else:
            high = middle
    return float(high), end


def _cycles(counts: np.ndarray, values: np.ndarray, updates: int) -> tuple[int, float, float]:
    """Return the number of restarts within the run, the length of the cycle at its end, and how much of it is made."""
    falling, low = False, float(values[0])
    starts: list[int] = []
    for place in range(1, len(values)):
        if values[place] < values[place - 1] - 1e-6:
            if falling is False and not starts:
                starts.append(0)
            falling, low = True, float(values[place])
        elif falling and values[place] > low + 0.05:
            starts.append(int(counts[place]))
            falling = False
    later = starts[1:]
    within = [start for start in later if start < updates]
    if not within:
        return 0, float("nan"), float("nan")
    begin = within[-1]
    following = [start for start in later if start >= updates]
    before = within[-2] if len(within) > 1 else 0
    cycle = (following[0] - begin) if following else (begin - before)
    cycle = max(cycle, begin - before)
    return len(within), float(cycle), min(1.0, (updates - begin) / max(cycle, 1))


def check_schedule(evidence: ScheduleEvidence, limits: Thresholds) -> list[Finding]:
    """Return what is wrong with a schedule for a run of this length."""
    found = [check(evidence, limits) for check in (_counts_minibatches, _warmup_too_long, _ends_early)]
    found += [check(evidence, limits) for check in (_never_ends, _restart_cut)]
    return [finding for finding in found if finding is not None]


def _counts_minibatches(seen: ScheduleEvidence, limits: Thresholds) -> Finding | None:
    every = seen.minibatches / seen.updates
    if every < 1.5 or not np.isfinite(seen.full_steps) or seen.full_steps == 0:
        return None
    if abs(seen.full_steps / seen.minibatches - 1) > limits.minibatch_match or seen.last < limits.ended_rate:
        return None
    return Finding(
        "schedule-counts-minibatches",
        "certain",
        min(1.0, seen.last),
        f"The schedule is {seen.full_steps:,.0f} steps long, as many as the run has minibatches; but it counts "
        "updates, "
        f"of which there are {seen.updates:,}. At the end the rate is {seen.last:.0%} of its peak.",
        {"schedule_steps": int(seen.full_steps), "updates": seen.updates, "minibatches": seen.minibatches},
        Remedy("Give the schedule's durations in updates.", Change(time_factor=seen.updates / seen.full_steps)),
    )


def _warmup_too_long(seen: ScheduleEvidence, limits: Thresholds) -> Finding | None:
    share = seen.warmup_steps / seen.updates
    allowed = limits.one_cycle_share if seen.rises_by_design else limits.warmup_share
    if share <= allowed or np.isfinite(seen.cycle_steps):
        return None
    steps = max(1, round(0.05 * seen.updates))
    longer = "longer than the run" if share >= 1 else f"{share:.0%} of the run"
    return Finding(
        "warmup-too-long",
        "certain" if share >= 1 else "likely",
        min(1.0, share / 2),
        f"The rate reaches its peak after {seen.warmup_steps:,} updates, {longer}.",
        {"warmup_steps": seen.warmup_steps, "updates": seen.updates},
        Remedy("Warm up over 1 % to 10 % of the run.", Change(warmup_steps=steps)),
    )


def _ends_early(seen: ScheduleEvidence, limits: Thresholds) -> Finding | None:
    ended = seen.full_steps if np.isfinite(seen.full_steps) and seen.end <= limits.ended_rate else np.inf
    fallen = seen.active_steps if seen.last <= FALLEN else np.inf
    last = ended if ended <= seen.updates else fallen
    if last > limits.early_end_share * seen.updates or seen.full_steps == 0:
        return None
    lost = 1 - last / seen.updates
    return Finding(
        "schedule-ends-early",
        "certain",
        lost,
        f"From update {last:,.0f} of {seen.updates:,} on the rate is {_part(max(seen.end, seen.last))}: {lost:.0%} of "
        "the run hardly moves the parameters.",
        {"schedule_steps": int(last), "updates": seen.updates, "last_rate": seen.last * seen.peak},
        Remedy("Let the schedule end with the run.", Change(time_factor=seen.updates / max(last, 1))),
    )


def _part(share: float) -> str:
    return f"at most {share:.2g} of its peak" if share > 1e-4 else "0"


def _never_ends(seen: ScheduleEvidence, limits: Thresholds) -> Finding | None:
    if not np.isfinite(seen.full_steps) or seen.end > limits.late_rate / 2 or seen.last <= limits.late_rate:
        return None
    if seen.full_steps <= limits.late_end_share * seen.updates:
        return None
    return Finding(
        "schedule-never-ends",
        "certain",
        min(1.0, 0.5 * seen.last),
        f"The schedule takes {seen.full_steps:,.0f} updates and the run {seen.updates:,}: at the end the rate is "
        f"{seen.last:.0%} of its peak.",
        {"schedule_steps": int(seen.full_steps), "updates": seen.updates, "last_rate": seen.last * seen.peak},
        Remedy("Let the schedule end with the run.", Change(time_factor=seen.updates / seen.full_steps)),
    )


def _restart_cut(seen: ScheduleEvidence, limits: Thresholds) -> Finding | None:
    if not np.isfinite(seen.cycle_steps) or seen.last <= limits.cut_rate or seen.last_cycle > limits.whole_cycle:
        return None
    return Finding(
        "restart-cut",
        "certain",
        min(1.0, 0.5 * seen.last),
        f"The run ends after {seen.last_cycle:.0%} of a cycle of {seen.cycle_steps:,.0f} updates, with the rate at "
        f"{seen.last:.0%} of its peak.",
        {"cycle_steps": int(seen.cycle_steps), "updates": seen.updates, "last_rate": seen.last * seen.peak},
        Remedy(
            "End the run, or choose the period, so that the last cycle is complete.",
            Change(cycles=max(1, seen.restarts)),  # those that are complete, longer: one more would be short
        ),
    )
