"""Cyclical learning rates: as accurate as the fixed policy in a fraction of the iterations.

L. Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, arXiv:1506.01186. Figure 1 and the first
rows of Table 1 (CIFAR-10, Caffe's `cifar10_full` network): the fixed policy reaches 81.4 % after 70,000 iterations,
triangular2 81.4 % after 25,000, the control `decay`, which falls from the upper bound to the lower and stays there,
78.5 % after 25,000. Section 3.3 and Figure 3: the range test, from which the bounds are read.

    lrx reproduce smith_2017                      digits, a perceptron: within a minute on 2 CPU cores
    lrx reproduce smith_2017 --scale cpu          CIFAR-10, the paper's network at half width, lengths / 5
    lrx reproduce smith_2017 --scale paper        CIFAR-10, the paper's network and lengths

Measured at the cpu scale, 3 seeds: after 5,000 iterations the cyclical policy is at 66.6 %, the control at 64.7 % and
the fixed policy at 63.9 %, so at equal length the cycles win. After 14,000 the fixed policy is at 74.6 %, of which 4
points come within 200 iterations of its first drop, at 12,000: with a fifth of the lengths the cycles do not save
the rest. On one core, beside other work, it took 80 minutes.

Differs from the source: the data are shuffled in each epoch (Caffe reads them in a fixed order), and the bounds at the
demo scale are read from a range test by the rule of section 3.3, since the paper gives none for these data.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import optax

import lrx
from lrx.figures import Figure, band, legend, panels
from lrx.papers.arms import compare, final_values, with_own, without_grid
from lrx.papers.figures import arm_style, describe
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.runs import strategy_of_networks
from lrx.records import Result
from lrx.training import Workload, train
from lrx.workloads import make_workload


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


@dataclasses.dataclass(frozen=True)
class Settings:
    """The model, the lengths and the rates of one scale."""

    model: str
    model_options: dict[str, Any]
    batch_size: int
    lengths: Lengths
    weight_decay: float
    range_max: float  # the upper end of the range test
    bounds: tuple[float, float] | None  # of the cycle; None reads them from the range test


PUBLISHED_BOUNDS = (0.001, 0.006)  # for CIFAR-10
SCALES = {
    "demo": Scale(
        "perceptron 64-128-128-10, 1,400 / 500 / 500 iterations, 3 seeds",
        "under 1 minute, 2 CPU cores",
        Settings("mlp", {}, 100, Lengths.divided_by(50), 0.0, 1.0, None),
        "digits",
    ),
    "cpu": Scale(
        "Caffe's network at half width, 14,000 / 5,000 / 5,000 iterations, 3 seeds",
        "under 90 minutes, 2 CPU cores",
        Settings("caffe", {"widths": (16, 16, 32)}, 100, Lengths.divided_by(5), 0.004, 0.02, PUBLISHED_BOUNDS),
        "cifar10",
    ),
    "paper": Scale(
        "Caffe's network, 70,000 / 25,000 / 25,000 iterations, 1 seed",
        "8 hours on 2 CPU cores",
        Settings("caffe", {}, 100, Lengths.divided_by(1), 0.004, 0.02, PUBLISHED_BOUNDS),
        "cifar10",
        seeds=(0,),
    ),
}

LABELS = {"fixed": "fixed policy", "decay": "decay (control)", "triangular2": "cyclical, triangular2"}


def schedules(lengths: Lengths, low: float, high: float) -> dict[str, lrx.Schedule]:
    """Return the three policies: with the bounds of the paper its own rates, with others rates in the same ratios."""
    return {
        "fixed": lrx.join([low, low / 10, low / 100], list(lengths.drops)),
        # From .007, a sixth above the upper bound, to the lower bound within one cycle.
        "decay": lrx.linear_decay(high * 7 / 6, 2 * lengths.stepsize, end_value=low),
        "triangular2": lrx.cyclical(low, high, lengths.stepsize, mode="triangular2"),
    }


def caffe_gradient(weight_decay: float) -> optax.GradientTransformationExtraArgs:
    """Return Caffe's multipliers of `cifar10_full`: biases learn twice, the output layer decays 250 times as fast.

    g <- lr_mult (g + weight_decay decay_mult w), before the momentum, whose velocity holds the rate.
    """

    def on_leaf(path: Any, gradient: jax.Array, weight: jax.Array) -> jax.Array:
        layer, kind = (str(getattr(entry, "key", entry)) for entry in path[-2:])
        output, bias = layer == "output", kind == "bias"
        decay = weight_decay * ((0.0 if bias else 250.0) if output else 1.0)
        speed = 2.0 if bias and layer != "conv3" else 1.0
        return speed * (gradient + decay * weight)

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(on_leaf, updates, params))


def optimizer(settings: Settings, rate: lrx.Rate) -> optax.GradientTransformationExtraArgs:
    """Return Caffe's solver: momentum 0.9, with the rate inside the velocity."""
    heavy_ball = lrx.heavy_ball(rate, momentum=0.9)
    if settings.model != "caffe":
        return heavy_ball
    return optax.chain(caffe_gradient(settings.weight_decay), heavy_ball)


def read_bounds(rates: np.ndarray, accuracies: np.ndarray) -> tuple[float, float]:
    """Read the cycle's bounds from a range test by the rule of section 3.3.

    The upper bound is where the accuracy, smoothed over five evaluations, stops rising: the smallest rate at which it
    is within a point of its highest. The lower bound is a quarter of that ("one third or one fourth").
    """
    smooth = np.convolve(np.pad(accuracies, 2, mode="edge"), np.full(5, 0.2), mode="valid")
    high = float(rates[int(np.argmax(smooth >= smooth.max() - 0.01))])
    return high / 4, high


def range_test(workload: Workload, settings: Settings, *, seed: int, progress: bool | str) -> dict[str, Any]:
    """Train with a rate that rises linearly from 0, for one short run, and record the accuracy."""
    lengths = settings.lengths
    rising = lrx.linear_decay(0.0, lengths.range_test, end_value=settings.range_max)
    history = train(
        workload,
        optimizer(settings, rising),
        steps=lengths.range_test,
        seed=seed,
        evaluate_every=max(lengths.range_test // 80, 1),
        progress=progress,
        stop_on_nonfinite=False,  # the end of a range test may diverge
    )
    steps = history.evaluation_steps
    return {
        "steps": steps.tolist(),
        "rate": np.asarray(rising(steps)).tolist(),
        "accuracy": history.evaluations["accuracy"].tolist(),
    }


def measure(settings: Settings, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train with the three policies and with the rising rate of a range test; record accuracies over iterations."""
    # Caffe's example does not augment.
    workload = make_workload(
        job.data,
        settings.model,
        batch_size=settings.batch_size,
        data_dir=job.data_dir,
        augment=False,
        **settings.model_options,
    )

    title = job.progress_title(f"{workload.name}, range test")
    ladder = range_test(workload, settings, seed=job.seeds[0], progress=title)
    bounds = settings.bounds or read_bounds(np.asarray(ladder["rate"]), np.asarray(ladder["accuracy"]))
    lengths = settings.lengths
    policies = {
        policy: without_grid(optimizer(settings, schedule)) for policy, schedule in schedules(lengths, *bounds).items()
    }
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
    return {**dataclasses.asdict(settings), "bounds": list(bounds)}, {"range_test": ladder, "arms": arms}


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
    return [
        Claim(
            f"triangular2 after {short} iterations is as accurate as fixed after {fixed} (within 0.5 points)",
            "81.4 % and 81.4 %",
            f"{format_final('triangular2')} and {format_final('fixed')}",
            mean["triangular2"] >= mean["fixed"] - 0.5,
        ),
        Claim(
            f"triangular2 beats the decay control after {short} iterations (by 1.5 points or more)",
            "81.4 % and 78.5 %",
            f"{format_final('triangular2')} and {format_final('decay')}",
            mean["triangular2"] >= mean["decay"] + 1.5,
        ),
        Claim(
            "accuracy peaks where a cycle ends (within a tenth of a cycle)",
            "at the end of cycles",
            f"{near} of {total} cycles",
            near == total,
        ),
    ]


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


def plot(result: Result) -> dict[str, Figure]:
    """Draw accuracy and rate over iterations (figure 1), and the range test (figure 3)."""
    title = f"{result.data}, {result.settings['model']}, {result.scale} scale"
    return {"accuracy": plot_accuracy(result, title), "range_test": plot_range_test(result, title)}


def plot_accuracy(result: Result, title: str) -> Figure:
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


def plot_range_test(result: Result, title: str) -> Figure:
    """Draw the test accuracy over the rising rate, and the bounds of the cycle."""
    figure, (axes,) = panels(size=(8.0, 3.6))
    accuracy = 100 * result.array("range_test", "accuracy")
    axes.plot(result.array("range_test", "rate"), accuracy, color=arm_style("triangular2", 0)["color"], lw=1.6)
    bounds = tuple(result.settings["bounds"])
    axes.axvspan(*bounds, color=arm_style("decay", 0)["color"], alpha=0.15, lw=0)
    origin = "the paper's" if bounds == PUBLISHED_BOUNDS else "read from this test"
    axes.annotate(
        f"bounds of the cycle, {origin}: {bounds[0]:.3g} to {bounds[1]:.3g}",
        (bounds[1], 0.08),
        xycoords=("data", "axes fraction"),
        xytext=(6, 0),
        textcoords="offset points",
        fontsize=9,
    )
    describe(axes, f"Figure 3: range test, {title}")
    axes.set(xlabel="learning rate, rising linearly", ylabel="test accuracy (%)")
    return figure


PAPER = Paper(
    name="smith_2017",
    title="Cyclical Learning Rates for Training Neural Networks",
    authors="L. Smith",
    year=2017,
    source="WACV 2017, arXiv:1506.01186",
    figure="Figure 1 (accuracy over iterations), Figure 3 (range test)",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("arms",),),
)
