"""Figure 1 and table 1: the cyclical policy, its control and the fixed policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import optax

import lrx
from lrx.figures import Figure, band, legend, panels
from lrx.papers.arms import compare, final_values, with_own, without_grid
from lrx.papers.figures import arm_style, describe
from lrx.papers.reproduction import Claim, Job
from lrx.papers.runs import strategy_of_networks
from lrx.records import Result
from lrx.training import Workload

LABELS = {"fixed": "fixed policy", "decay": "decay (control)", "triangular2": "cyclical, triangular2"}


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Durations in iterations: those of the paper, divided by one number."""

    fixed: int
    drops: tuple[int, int]  # when the fixed policy divides its rate by 10
    short: int  # the length of the cyclical policy and its control
    stepsize: int  # half a cycle
    range_test: int
    every: int  # between two evaluations

    @classmethod
    def divided_by(cls, divisor: int) -> Lengths:
        return cls(
            fixed=70_000 // divisor,
            drops=(60_000 // divisor, 65_000 // divisor),
            short=25_000 // divisor,
            stepsize=2_000 // divisor,
            range_test=4_000 // divisor,
            every=500 // divisor,
        )


def schedules(lengths: Lengths, low: float, high: float) -> dict[str, lrx.Schedule]:
    """Return the three policies: with the bounds of the paper its own rates, with others rates in the same ratios."""
    return {
        "fixed": lrx.join([low, low / 10, low / 100], list(lengths.drops)),
        # From .007, a sixth above the upper bound, to the lower bound within one cycle.
        "decay": lrx.linear_decay(high * 7 / 6, 2 * lengths.stepsize, end_value=low),
        "triangular2": lrx.cyclical(low, high, lengths.stepsize, mode="triangular2"),
    }


def measure(
    workload: Workload,
    make: Callable[[lrx.Schedule], optax.GradientTransformation],
    lengths: Lengths,
    bounds: tuple[float, float],
    job: Job,
) -> dict[str, Any]:
    """Train with the three policies and with the arms of the caller; record accuracies over iterations.

    Args:
      workload: what is trained.
      make: rate to method.
      lengths: see the class.
      bounds: of the cycle.
      job: the seeds, the folder of checkpoints and whether to show progress.
    """
    policies = {policy: without_grid(make(schedule)) for policy, schedule in schedules(lengths, *bounds).items()}
    arms: dict[str, Any] = {}
    fixed = {"fixed": policies.pop("fixed")}
    for some, steps in ((fixed, lengths.fixed), (with_own(policies, job), lengths.short)):
        arms |= compare(
            workload,
            some,
            job,
            num_steps=steps,
            num_points=steps // lengths.every,
            evaluate_every=lengths.every,
            with_rates=True,
            strategy=strategy_of_networks(),
        )
    return arms


def claims(result: Result) -> list[Claim]:
    """Compare with table 1, and with the statement that accuracy peaks at the end of each cycle."""
    final = {policy: 100 * final_values(arm, "accuracy") for policy, arm in result.curves["arms"].items()}
    mean = {policy: float(np.mean(values)) for policy, values in final.items()}

    def format_final(policy: str) -> str:
        spread = f" ± {np.std(final[policy], ddof=1):.1f}" if len(final[policy]) > 1 else ""
        return f"{mean[policy]:.1f}{spread} %"

    lengths = result.settings["lengths"]
    short, fixed = f"{lengths['short']:,}", f"{lengths['fixed']:,}"
    near, total = peaks_at_cycle_ends(result)
    text = f"triangular2 after {short} iterations is as accurate as fixed after {fixed} (within 0.5 points)"
    reached = f"{format_final('triangular2')} and {format_final('fixed')}"
    found = [Claim(text, "81.4 % and 81.4 %", reached, mean["triangular2"] >= mean["fixed"] - 0.5)]
    text = f"triangular2 beats the decay control after {short} iterations (by 1.5 points or more)"
    reached = f"{format_final('triangular2')} and {format_final('decay')}"
    found.append(Claim(text, "81.4 % and 78.5 %", reached, mean["triangular2"] >= mean["decay"] + 1.5))
    text = "accuracy peaks where a cycle ends (within a tenth of a cycle)"
    return [*found, Claim(text, "at the end of cycles", f"{near} of {total} cycles", near == total)]


def peaks_at_cycle_ends(result: Result) -> tuple[int, int]:
    """Count the cycles whose best accuracy lies within a tenth of a cycle, or one evaluation, of their end."""
    lengths = result.settings["lengths"]
    steps = result.array("arms", "triangular2", "evaluation_steps").astype(int)
    accuracy = result.array("arms", "triangular2", "evaluations", "accuracy").mean(axis=0)
    cycle = 2 * lengths["stepsize"]
    tolerance = max(cycle // 10, lengths["every"])
    ends = [end for end in range(cycle, steps[-1] + 1, cycle) if end + tolerance <= steps[-1]]
    near = 0
    for end in ends:
        # From the middle of this cycle to the middle of the next.
        around = (steps > end - lengths["stepsize"]) & (steps <= end + lengths["stepsize"])
        peak = steps[around][int(np.argmax(accuracy[around]))]
        near += int(abs(peak - end) <= tolerance)
    return near, len(ends)


def plot(result: Result, title: str) -> Figure:
    """Draw the test accuracy of the policies, and below it their rates."""
    figure, (above, below) = panels(rows=2, size=(8.0, 5.6), sharex=True, height_ratios=(3, 1))
    finals = []
    for place, (policy, arm) in enumerate(result.curves["arms"].items()):
        look, accuracy = arm_style(policy, place), 100 * np.asarray(arm["evaluations"]["accuracy"], np.float64)
        finals.append(accuracy)
        middle = accuracy.mean(axis=0)
        label = f"{LABELS.get(policy, policy)}: {middle[-1]:.1f} %"
        band(above, arm["evaluation_steps"], accuracy, label, middle=np.mean, **look)
        above.plot(arm["evaluation_steps"][-1:], middle[-1:], "o", color=look["color"], ms=5)
        rate = np.mean(np.asarray(arm["rate"], np.float64), axis=0)  # NaN if the arm shows none
        below.plot(arm["steps"], rate, lw=1.4, **look)
    # The first evaluations, near chance, would flatten everything that is compared.
    low = min(np.quantile(accuracy.mean(axis=0), 0.1) for accuracy in finals)
    high = max(float(accuracy.max()) for accuracy in finals)
    above.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    seeds = len(result.seeds)
    shown = f"mean and range of {seeds} seeds" if seeds > 1 else "1 seed"
    describe(above, f"Figure 1: {title}, {shown}", ylabel="test accuracy (%)")
    below.set(xlabel="iteration", ylabel="learning rate")
    below.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    legend(figure, above, columns=3)
    return figure
