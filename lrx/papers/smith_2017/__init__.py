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
points come within 200 iterations of its first drop, at 12,000; but at a fifth of the lengths, 5,000 iterations with
cycles do not reach the fixed policy, which is at 70 % even before that drop. On one core, beside other work, it took 80
minutes.

Differs from the source: the data are shuffled in each epoch (Caffe reads them in a fixed order), and the bounds at the
demo scale are read from a range test by the rule of section 3.3, since the paper gives none for these data.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import optax

import lrx
from lrx.figures import Figure
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.smith_2017 import policies, range_test
from lrx.papers.smith_2017.policies import Lengths
from lrx.papers.smith_2017.range_test import PUBLISHED_BOUNDS
from lrx.records import Result
from lrx.workloads import make_workload
from lrx.workloads.caffe import caffe_gradient


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


def optimizer(settings: Settings, rate: lrx.Rate) -> optax.GradientTransformationExtraArgs:
    """Return Caffe's solver: momentum 0.9, with the rate inside the velocity."""
    heavy_ball = lrx.heavy_ball(rate, momentum=0.9)
    if settings.model != "caffe":
        return heavy_ball
    return optax.chain(caffe_gradient(settings.weight_decay), heavy_ball)


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
    make = partial(optimizer, settings)
    rising = range_test.measure(
        workload,
        make,
        steps=settings.lengths.range_test,
        highest=settings.range_max,
        seed=job.seeds[0],
        progress=job.progress_title(f"{workload.name}, range test"),
    )
    bounds = settings.bounds or range_test.read_bounds(np.asarray(rising["rate"]), np.asarray(rising["accuracy"]))
    arms = policies.measure(workload, make, settings.lengths, bounds, job)
    return {**dataclasses.asdict(settings), "bounds": list(bounds)}, {"range_test": rising, "arms": arms}


def claims(result: Result) -> list[Claim]:
    """Compare with table 1, and with the statement that accuracy peaks at the end of each cycle."""
    return policies.claims(result)


def plot(result: Result) -> dict[str, Figure]:
    """Draw accuracy and rate over iterations (figure 1), and the range test (figure 3)."""
    title = f"{result.data}, {result.settings['model']}, {result.scale} scale"
    return {"accuracy": policies.plot(result, title), "range_test": range_test.plot(result, title)}


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
