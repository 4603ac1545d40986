"""Adaptive methods fit the training data as well as SGD; on one constructed problem they then generalize not at all.

A. C. Wilson, R. Roelofs, M. Stern, N. Srebro, B. Recht, "The Marginal Value of Adaptive Gradient Methods in Machine
Learning", NeurIPS 2017, arXiv:1705.08292. Section 3.3: the label y is 1 with probability p > 1/2, the first feature is
y, the next two are 1, and each example has features of its own, one if y = 1 and five if y = -1. From w = 0 gradient
descent finds the solution of least norm, which is right on all new examples. AdaGrad, RMSProp and Adam find one
proportional to sign(X^T y), which fits the training examples as well and calls every new one positive.

Section 4: networks, each method at the rate with the lowest training loss; SGD has the lower test error, 7.65 % against
9.60 % of the best adaptive method (CIFAR-10, VGG with batch norm).

    lrx reproduce wilson_2017                 digits, a perceptron, 12 epochs, 5 methods, 7 rates, 3 seeds
    lrx reproduce wilson_2017 --scale cpu     CIFAR-10 of 8 x 8 pixels, a residual network of 8 layers, 3 seeds

Measured at the demo scale, Adam fits best of all, and AdaGrad and RMSProp end 0.01 to 0.02 nats above the better SGD
after these few epochs. At the cpu scale it is the same: Adam fits best, with a hundredth of SGD's rate; RMSProp ends
0.03 and AdaGrad 0.09 nats higher. The test errors of SGD and Adam are equal, 51 %; rates within a factor of 10 of the
best move the error by 14 points in the mean, the method by 2. At the demo scale Adam's best rate is the highest of its
grid, so SGD's is at most 32 times as large there.

The gap in test errors is shown and is not a claim: with small networks it is within the spread of the seeds.

Differs from the source: small networks; the rate is divided by 10 after a half and three quarters of the epochs, in
place of a search over schedules.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.arms import Arm, decades, final_values, summarize_arm, with_own
from lrx.papers.descent import descend
from lrx.papers.figures import arm_style, band, errors_at_the_end
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.residual_networks import Network, residual_workload
from lrx.papers.runs import strategy_of_networks, sweep_seeds
from lrx.records import Result, round_to_six_digits
from lrx.training import Workload
from lrx.workloads.datasets import load
from lrx.workloads.images import error_workload
from lrx.workloads.linear import draw_unique_features


class Size(NamedTuple):
    """Data, network, length and the number of rates in a decade."""

    network: Network
    depth: int  # layers of the residual network; 0 for a perceptron with one hidden layer, as wide as `network` says
    epochs: int
    each: int  # rates in a decade
    examples: int = 100  # of the constructed problem


SCALES = {
    "demo": Scale(
        "a perceptron of 64 units, 12 epochs, 7 rates, 3 seeds",
        "half a minute, 2 CPU cores",
        Size(Network(1437, 360, 1437, 64, 64), 0, 12, 2),
        "digits",
    ),
    "cpu": Scale(
        "a residual network of 8 layers on 10,000 images, 10 epochs, 7 rates, 3 seeds",
        "20 minutes, 1 CPU core",
        Size(Network(10_000, 2000, 5000, 128, 16, 4), 8, 10, 2),
        "cifar10",
    ),
    "paper": Scale(
        "ResNet-20, 60 epochs, 7 rates, 3 seeds",
        "hours on one GPU",
        Size(Network(50_000, 10_000, 10_000, 128, 0), 20, 60, 2),
        "cifar10",
    ),
}
# The first and the last rate of each grid, as powers of 10.
METHODS = {
    "SGD": (lrx.sgd, -2.0, 1.0),
    "heavy ball": (lambda rate: lrx.sgd(rate, momentum=0.9), -3.0, 0.0),
    "AdaGrad": (lrx.adagrad, -3.0, 0.0),
    "RMSProp": (lrx.rmsprop, -4.5, -1.5),
    "Adam": (lrx.adam, -4.5, -1.5),
}
ADAPTIVE = ("AdaGrad", "RMSProp", "Adam")
DROPS = (0.5, 0.75)  # of the run
POSITIVE = 0.75  # the share of positive labels in the constructed problem
STEPS = 2000  # of full-batch descent on it
CONSTRUCTED = {"SGD": 0.3, "heavy ball": 0.1, "AdaGrad": 0.03, "RMSProp": 0.001, "Adam": 0.001}  # rates, at its start
PARITY = 0.01  # nats between training losses
MATTERS = 3.0  # the effect of the rate over that of the method, at least


def solve(name: str, examples: int, seeds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return training losses and test errors in percent of a method on the constructed problem, both (seeds,).

    New examples have features that no weight has been learnt for, so the first three decide.
    """
    make, rate = METHODS[name][0], CONSTRUCTED[name]
    tx = make(lrx.linear_decay(rate, STEPS))

    def of_seed(seed: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, y = draw_unique_features(examples, POSITIVE, jax.random.key(seed))

        def loss(w: jax.Array) -> jax.Array:
            return 0.5 * jnp.mean((x @ w - y) ** 2)

        gradient = jax.value_and_grad(loss)
        w = descend(lambda w, key: gradient(w), tx, jnp.zeros(x.shape[1]), np.array([STEPS]), lambda w: w)[0]  # noqa: ARG005
        new = jnp.array([1.0, -1.0]) * w[0] + w[1] + w[2]
        return loss(w), 100 * (POSITIVE * (new[0] <= 0) + (1 - POSITIVE) * (new[1] >= 0))

    losses, errors = jax.jit(jax.vmap(of_seed))(jnp.asarray(seeds, jnp.uint32))
    return np.asarray(losses, np.float64), np.asarray(errors, np.float64)


def dropped(make: Any, drops: dict[int, float], rate: Any) -> optax.GradientTransformation:
    """Return a method whose rate is multiplied by factors after some steps."""
    return make(lrx.piecewise_constant(rate, drops))


def network_workload(size: Size, job: Job) -> Workload:
    """Build the workload of the network, which evaluates the test `error` and the `training_loss`."""
    if size.depth:
        return residual_workload(size.network, size.depth, job)
    images = load(job.data, job.data_dir).first(size.network.number, size.network.test)
    return error_workload(images, "mlp", batch_size=size.network.batch_size, widths=(size.network.width,))


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Solve the constructed problem with every method, and train a network with every method, rate and seed."""
    problem = {
        name: dict(zip(("loss", "error"), map(round_to_six_digits, solve(name, size.examples, job.seeds)), strict=True))
        for name in METHODS
    }
    workload = network_workload(size, job)
    epoch = workload.batches.steps_per_epoch
    steps = size.epochs * epoch

    drops = {round(part * steps): 0.1 for part in DROPS}
    own = {
        name: Arm(partial(dropped, make, drops), decades(first, last, size.each))
        for name, (make, first, last) in METHODS.items()
    }
    arms = {}
    for name, arm in with_own(own, job).items():
        swept = sweep_seeds(
            workload,
            lambda lr, arm=arm: arm.make(lr),
            {"lr": arm.rates},
            job,
            name,
            num_steps=steps,
            evaluate_every=max(1, steps // 15),
            strategy=strategy_of_networks() if size.depth else "vmap",
        )
        arms[name] = summarize_arm(swept, metric="training_loss")
        arms[name]["error"] = round_to_six_digits(swept.evaluations["error"])
    return size._asdict() | {"epoch": epoch}, {"constructed": problem, "arms": arms}


def effects(result: Result) -> tuple[float, float]:
    """Return how far mean test errors differ between the rates of a method, and between methods at their best rates.

    The rates are those within a factor of 10 of the best one; the difference is the mean over methods.
    """
    by_rate, at_best = [], []
    for name in METHODS:
        arm = result.curves["arms"][name]
        rates, errors = np.asarray(arm["rates"]), np.asarray(arm["error"], np.float64).mean(axis=1)
        near = np.abs(np.log10(rates / rates[arm["best"]])) <= 1.01
        by_rate.append(np.ptp(np.nan_to_num(errors[near], nan=90.0)))
        at_best.append(errors[arm["best"]])
    return float(np.mean(by_rate)), float(np.ptp(at_best))


def claims(result: Result) -> list[Claim]:
    """Check the theorem, the parity of training losses, and how much the rate and the method matter."""
    problem = result.curves["constructed"]
    found = []
    for kind, names, error in (
        ("SGD and heavy ball", ("SGD", "heavy ball"), 0.0),
        ("AdaGrad, RMSProp and Adam", ADAPTIVE, 100 * (1 - POSITIVE)),
    ):
        errors = np.array([problem[name]["error"] for name in names], np.float64)
        text = f"section 3.3: test error of {kind}, {error:g} % (every seed)"
        measured = f"{errors.min():g} to {errors.max():g}"
        found.append(Claim(text, f"{error:g}", measured, bool(np.allclose(errors, error, atol=0.01))))
    fitted = max(float(np.max(each["loss"])) for each in problem.values())
    found.append(Claim("section 3.3: all fit the training set, loss below 0.001", "0", f"{fitted:.2g}", fitted < 1e-3))
    arms = result.curves["arms"]
    losses = {name: final_values(arms[name], "training_loss") for name in METHODS}
    for name in ADAPTIVE:
        text = (
            f"section 4: training loss of {name} minus that of the better SGD, each at its best rate, at most {PARITY}"
        )
        best = min((losses["SGD"], losses["heavy ball"]), key=np.mean)
        found.append(Claim.of_values(text, "parity", losses[name] - best, high=PARITY))
    best_rate = {name: arms[name]["rates"][arms[name]["best"]] for name in METHODS}
    ratio = best_rate["SGD"] / best_rate["Adam"]
    text = "section 4: the best rate of SGD is more than 30 times that of Adam"
    found.append(Claim.of_values(text, "1,700 (0.5 and 0.0003)", ratio, 30.0))
    by_rate, by_method = effects(result)
    text = f"test error: the effect of the rate, within a factor of 10, over that of the method, at least {MATTERS:g}"
    found.append(Claim.of_values(text, "8.5, a reproduction at small scale", by_rate / max(by_method, 1e-9), MATTERS))
    return found


def plot(result: Result) -> dict[str, Figure]:
    """Draw training losses and test errors over epochs, each at the best rate, and the errors at the end."""
    figure, (left, middle, right) = panels(3, size=(12, 4.2))
    arms, epoch = result.curves["arms"], result.settings["epoch"]
    for axes, key in ((left, "training_loss"), (middle, "error")):
        for place, (name, arm) in enumerate(arms.items()):
            label = f"{name}, {arm['rates'][arm['best']]:.2g}" if len(arm["rates"]) > 1 else name
            x = np.asarray(arm["evaluation_steps"]) / epoch
            band(axes, x, arm["evaluations"][key], label, middle=np.mean, **arm_style(name, place))
        axes.set_xlabel("epoch")
    left.set(yscale="log", ylabel="training loss, nats")
    middle.set_ylabel("test error (%), mean and range of seeds")
    last = [final_values(arm, "error").mean() for arm in arms.values()]
    middle.set_ylim(0.6 * min(last), min(4 * min(last), middle.get_ylim()[1]))
    problem = result.curves["constructed"]
    names = [f"{name}\n({np.mean(problem[name]['error']):.0f} %)" if name in problem else name for name in arms]
    errors_at_the_end(right, {name: final_values(arm, "error") for name, arm in arms.items()}, names)
    right.set_xlabel("test error at the end (%)\nin brackets: section 3.3")
    right.grid(True, axis="x")
    legend(figure, left, columns=6)
    return {"marginal_value": figure}


PAPER = Paper(
    name="wilson_2017",
    title="The Marginal Value of Adaptive Gradient Methods in Machine Learning",
    authors="A. C. Wilson, R. Roelofs, M. Stern, N. Srebro, B. Recht",
    year=2017,
    source="NeurIPS 2017, arXiv:1705.08292",
    figure="Section 3.3 (a problem on which adaptive methods fail), and figure 1 on small networks",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("arms",),),
)
