"""SGDR: anneal the rate along a cosine, restart it, and each time let the next annealing take twice as long.

I. Loshchilov, F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, arXiv:1608.03983, figures
1 and 2 and table 1. T_cur epochs after a restart the rate is

    eta_t = (eta_max / 2) (1 + cos(pi T_cur / T_i)),   T_0 = 10 epochs, T_{i+1} = 2 T_i, eta_max = 0.05,

so that the run is good at the end of each annealing, after 10, 30, 70 and 150 epochs, long before a schedule that drops
the rate by 5 at 60, 120 and 160 of 200 epochs. The snapshots at these ends are different enough that the mean of their
predictions is better than the last one (section 4.3; Huang et al., ICLR 2017).

    lrx reproduce loshchilov_2017                 MNIST of 7 x 7 pixels, a perceptron, 15 epochs, 3 seeds
    lrx reproduce loshchilov_2017 --scale cpu     CIFAR-10 of 8 x 8 pixels, a convolutional network, 30 epochs, 3 seeds

Measured at the cpu scale, SGDR ends as one cosine over the whole run does, and a point below the step schedule. It is
not good any sooner: before the first drop the small network learns as much at the full rate; and its snapshots, whose
errors are 57, 53 and 50 %, are too unequal for their mean to gain.

Differs from the source: small networks and few images in place of wide residual networks; all schedules have 15 units
of time, T_0 = 1 of them, where the paper compares 150 epochs of SGDR with 200 of its baseline. "Fewer" errors before
the first drop are a tenth fewer here, a threshold of ours.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.arms import compare, final_values, momentum_with_penalty, with_own, without_grid
from lrx.papers.figures import REFERENCE, arm_style, band, describe
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.small_images import Images, load_problem, workload_of
from lrx.records import Result, round_to_six_digits
from lrx.training import Evaluation, Moment, Workload, train
from lrx.workloads._network import Network
from lrx.workloads.supervised import Examples


class Size(NamedTuple):
    """Data, network and lengths."""

    network: str  # "perceptron" or "convolutions"
    images: int  # of the training set
    test_images: int
    shrink: int  # pixels along each axis that are averaged
    unit: int  # epochs of the first period
    batch_size: int
    widths: tuple[int, ...]


SMALL = Size("perceptron", 6000, 2000, 4, 1, 32, (64,))
WHOLE = Size("convolutions", 50_000, 10_000, 1, 10, 128, (64, 128))
LARGE = Size("convolutions", 20_000, 10_000, 4, 2, 128, (16, 32))
SCALES = {
    "demo": Scale("a perceptron, 15 epochs, 3 seeds", "half a minute, 2 CPU cores", SMALL, "mnist"),
    "cpu": Scale("two convolutions, 30 epochs, 3 seeds", "6 minutes, 1 CPU core", LARGE, "cifar10"),
    "paper": Scale("two wide convolutions, 150 epochs, 3 seeds", "hours on one GPU", WHOLE, "cifar10"),
}
RATE = 0.05
WEIGHT_DECAY = 5e-4
UNITS = 15  # of the whole run: 1 + 2 + 4 + 8
ENDS = (1, 3, 7, 15)  # of the periods, in units
DROPS = (0.3, 0.6, 0.8)  # of the run, where the step schedule is divided by 5
POINTS = 150  # of the curves of rates and training losses
ENSEMBLE = 3  # snapshots, the last ones
FEWER = 0.9  # errors of SGDR over those of the step schedule, before its first drop
SGDR, STEP, COSINE = "SGDR", "step", "cosine"


def schedules(unit_steps: int) -> dict[str, lrx.Schedule]:
    """Return the schedules of a run of 15 units."""
    total = UNITS * unit_steps
    return {
        STEP: lrx.piecewise_constant(RATE, {round(part * total): 0.2 for part in DROPS}),
        COSINE: lrx.cosine_decay(RATE, total),
        SGDR: lrx.cosine_restarts(RATE, unit_steps, period_mult=2),
    }


def optimizer(schedule: lrx.Schedule) -> optax.GradientTransformation:
    """Return momentum with an L2 penalty."""
    return momentum_with_penalty(schedule, WEIGHT_DECAY)


def build(size: Size, job: Job) -> tuple[Workload, Network, Examples]:
    """Return the workload, which evaluates the test error in percent, its network and the test images."""
    images = Images(size.network, size.images, size.test_images, size.shrink, size.widths)
    problem = load_problem(images, job)
    return workload_of(problem, f"{job.data}-{size.network}", size.batch_size), problem.network, problem.test


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train with the schedules, and average the predictions of the snapshots of SGDR."""
    workload, network, test = build(size, job)
    epoch = workload.batches.steps_per_epoch
    unit_steps = size.unit * epoch
    arms = compare(
        workload,
        with_own({name: without_grid(optimizer(each)) for name, each in schedules(unit_steps).items()}, job),
        job,
        num_steps=UNITS * unit_steps,
        num_points=POINTS,
        evaluate_every=epoch,
        with_rates=True,
        strategy="vmap" if size.network == "perceptron" else "map",
    )
    return size._asdict() | {"epoch": epoch, "unit_steps": unit_steps}, {
        "arms": arms,
        "ensembles": ensembles(workload, network, test, unit_steps, job),
    }


def ensembles(workload: Workload, network: Network, test: Examples, unit_steps: int, job: Job) -> dict[str, Any]:
    """Return the test errors of the snapshots of SGDR, (seeds, snapshots), and of the mean of the last predictions."""

    def error(predictions: jax.Array, labels: jax.Array) -> jax.Array:
        return 100 * jnp.mean(predictions.argmax(axis=-1) != labels)

    predict = Evaluation(lambda params, inputs: {"p": jax.nn.softmax(network.apply(params, inputs))}, test[0])
    single, together = [], []
    for seed in job.seeds:
        found: list[jax.Array] = []

        def keep(moment: Moment, found: list[jax.Array] = found) -> None:
            if moment.step in [end * unit_steps for end in ENDS]:
                found.append(predict(moment.params)["p"])

        train(
            dataclasses.replace(workload, evaluate=None),
            optimizer(schedules(unit_steps)[SGDR]),
            steps=UNITS * unit_steps,
            seed=seed,
            callback=keep,
            callback_every=unit_steps,
            progress=job.progress_title(f"{workload.name}, snapshots, seed {seed}"),
        )
        labels = jnp.asarray(test[1])
        single.append([float(error(each, labels)) for each in found])
        together.append(float(error(sum(found[-ENSEMBLE:], jnp.zeros(())), labels)))
    return {"single": round_to_six_digits(single), "together": round_to_six_digits(together)}


def errors(result: Result, name: str) -> np.ndarray:
    """Return the test errors of an arm after each epoch, (seeds, epochs)."""
    return result.array("arms", name, "evaluations", "error")


def epochs_to(errors_of_seed: np.ndarray, target: float) -> int:
    """Return the first number of epochs after which the error is at most a target; one more than all if it never is."""
    reached = np.flatnonzero(errors_of_seed <= target)
    return int(reached[0]) + 1 if len(reached) else len(errors_of_seed) + 1


def claims(result: Result) -> list[Claim]:
    """Compare SGDR with the step schedule at the ends of its periods and at the end, and its snapshots."""
    unit = result.settings["unit"]
    sgdr, step = errors(result, SGDR), errors(result, STEP)
    found = []
    for end in ENDS:
        if end < DROPS[0] * UNITS:
            text = (
                f"after epoch {end * unit}, before the first drop: errors of SGDR over those of step, at most {FEWER}"
            )
            ratio = sgdr[:, end * unit - 1] / step[:, end * unit - 1]
            found.append(Claim.of_values(text, "fewer", ratio, high=FEWER))
    targets = 1.25 * sgdr[:, -1]
    ours, theirs = (
        np.array([epochs_to(each, target) for each, target in zip(arm, targets, strict=True)]) for arm in (sgdr, step)
    )
    text = "epochs to 1.25 times SGDR's last error: those of SGDR over those of step, at most 1/2"
    found.append(Claim.of_values(text, "1/4 to 1/2", ours / theirs, high=0.5))
    text = "at the end: error of SGDR minus that of step, at most 0.5 points"
    found.append(Claim.of_values(text, "-0.1, WRN-28-10", sgdr[:, -1] - step[:, -1], high=0.5))
    text = "at the end: error of SGDR minus that of one cosine over the whole run, between -0.5 and 0.5 points"
    found.append(Claim.of_values(text, "+0.2, WRN-28-10", sgdr[:, -1] - errors(result, COSINE)[:, -1], -0.5, 0.5))
    ends = sgdr[:, [end * unit - 1 for end in ENDS]].mean(axis=0)
    after = sgdr[:, [end * unit for end in ENDS[:-1]]].mean(axis=0)
    text = "each restart raises the error in the next epoch, and each period ends below the one before"
    worse, better = after > ends[:-1], np.diff(ends) < 0
    found.append(Claim(text, "3 and 3", f"{worse.sum()} and {better.sum()}", bool(worse.all() and better.all())))
    single, together = result.array("ensembles", "single"), result.array("ensembles", "together")
    text = f"section 4.3: error of the mean of {ENSEMBLE} snapshots minus that of the last one, below 0 (points)"
    return [*found, Claim.of_values(text, "-0.5, WRN-28-10", together - single[:, -1], high=-1e-9)]


def plot(result: Result) -> dict[str, Figure]:
    """Draw the rates and the test errors over epochs, as figures 1 and 2 do."""
    figure, (above, below) = panels(rows=2, size=(8.0, 5.6), sharex=True, height_ratios=(3, 1))
    epoch, unit = result.settings["epoch"], result.settings["unit"]
    for place, (name, arm) in enumerate(result.curves["arms"].items()):
        label = f"{name}: {final_values(arm, 'error').mean():.1f} %"
        look = arm_style(name, place)
        band(
            above,
            np.asarray(arm["evaluation_steps"]) / epoch,
            arm["evaluations"]["error"],
            label,
            middle=np.mean,
            **look,
        )
        below.plot(
            np.asarray(arm["steps"]) / epoch, np.mean(np.asarray(arm["rate"], np.float64), axis=0), lw=1.4, **look
        )
    together = result.array("ensembles", "together")
    above.axhline(together.mean(), label=f"mean of {ENSEMBLE} snapshots: {together.mean():.1f} %", **REFERENCE)
    for end in ENDS:
        for axes in (above, below):
            axes.axvline(end * unit, color="black", lw=0.5, alpha=0.4)
    shown = np.concatenate([errors(result, name).mean(axis=0) for name in (SGDR, STEP, COSINE)])
    above.set_ylim(0.85 * shown.min(), 1.1 * np.quantile(shown, 0.9))
    above.set_ylabel("test error (%)")
    below.set(xlabel="epoch; lines: ends of the periods of SGDR", ylabel="rate")
    describe(above, f"{result.data}, mean and range of {len(result.seeds)} seeds")
    legend(figure, above, columns=4)
    return {"restarts": figure}


PAPER = Paper(
    name="loshchilov_2017",
    title="SGDR: Stochastic Gradient Descent with Warm Restarts",
    authors="I. Loshchilov, F. Hutter",
    year=2017,
    source="ICLR 2017, arXiv:1608.03983",
    figure="Figures 1 and 2 (rates and test errors over epochs), and the snapshot ensemble, on small networks",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("arms",),),
)
