"""Figures 1 and 2a: Adam against other methods, in logistic regression and in a perceptron with dropout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.arms import Arm, compare, compare_after_trials, decades, final_values, with_own
from lrx.papers.figures import arm_style, band
from lrx.papers.reproduction import Claim, Job
from lrx.papers.runs import strategy_of_networks
from lrx.records import Result
from lrx.training import Workload


def over_root(rate: Any) -> lrx.Schedule:
    """Return alpha / sqrt t, t = 1, 2, ..."""
    return lrx.inverse_time_decay(rate, 1.0, power=0.5)


REGRESSION = {
    "AdaGrad": Arm(lambda rate: lrx.adagrad(over_root(rate)), decades(-1.5, 1, 2)),
    "AdaGrad, constant rate": Arm(lrx.adagrad, decades(-2, 0.5, 2)),
    "SGD-Nesterov": Arm(lambda rate: lrx.sgd(over_root(rate), momentum=0.9, nesterov=True), decades(-1, 1, 2)),
    "Adam": Arm(lambda rate: lrx.adam(over_root(rate)), decades(-2, 0.5, 2)),
}
PERCEPTRON = {
    "AdaGrad": Arm(lrx.adagrad, decades(-2.5, -1, 2)),
    "RMSProp": Arm(lambda rate: lrx.rmsprop(rate, decay=0.9), decades(-3.5, -2, 2)),
    "SGD-Nesterov": Arm(lambda rate: lrx.sgd(rate, momentum=0.9, nesterov=True), decades(-2, -0.5, 2)),
    "Adam": Arm(lrx.adam, decades(-3.5, -2, 2)),
}
FIGURE_1 = (  # one arm, another, and by how much the loss of the first may be above
    ("Adam", "SGD-Nesterov", 1.05),
    ("Adam", "AdaGrad", 1.0),
    ("SGD-Nesterov", "AdaGrad", 1.0),
    ("Adam", "AdaGrad, constant rate", 1.0),
)
FIGURE_2 = ("AdaGrad", "RMSProp", "SGD-Nesterov")  # above Adam
SCALED = 1000.0  # factor on the loss, to which Adam is invariant


def compare_on_regression(workload: Workload, job: Job, epochs: int) -> dict[str, Any]:
    """Train logistic regression with every arm, and with Adam at its best rate where the loss is in other units."""
    steps = epochs * workload.batches.steps_per_epoch
    arms = compare(workload, with_own(REGRESSION, job), job, num_steps=steps, name="regression", strategy="vmap")
    chosen = arms["Adam"]["rates"][arms["Adam"]["best"]]
    scaled = {
        "Adam, scaled": Arm(lambda rate: optax.chain(optax.scale(SCALED), REGRESSION["Adam"].make(rate)), (chosen,))
    }
    return arms | compare(workload, scaled, job, num_steps=steps, name="regression", strategy="vmap")


def compare_on_perceptron(workload: Workload, job: Job, trial_epochs: int, epochs: int) -> dict[str, Any]:
    """Train a perceptron with every arm at its best rate; see `lrx.papers.arms.compare_after_trials`."""
    epoch = workload.batches.steps_per_epoch
    return compare_after_trials(
        workload,
        with_own(PERCEPTRON, job),
        job,
        trial_steps=trial_epochs * epoch,
        num_steps=epochs * epoch,
        name="perceptron",
        strategy=strategy_of_networks(),
    )


def ratios(arms: Mapping[str, Any], name: str, other: str) -> np.ndarray:
    """Return the final loss of one arm over that of another, for each seed."""
    return final_values(arms[name]) / final_values(arms[other])


def claims(result: Result) -> list[Claim]:
    """Compare the methods at their best rates, and Adam in other units."""
    arms, networks = result.curves["regression"], result.curves["perceptron"]
    found = []
    for name, other, high in FIGURE_1:
        text = f"figure 1: the training loss of {name} over that of {other} at the end is at most {high:g}"
        found.append(Claim.of_values(text, f"<= {high:g}", ratios(arms, name, other), high=high))
    for other in FIGURE_2:
        text = f"figure 2a: the training loss of Adam over that of {other} at the end is below 1"
        found.append(Claim.of_values(text, "< 1", ratios(networks, "Adam", other), high=1.0))
    apart = np.abs(
        result.array("regression", "Adam, scaled", "loss") / result.array("regression", "Adam", "loss") - 1
    ).max(axis=1)
    text = f"figure 1's curve of Adam differs by less than 1 % where the loss is {SCALED:,.0f} times as large"
    found.append(Claim.of_values(text, "0", apart, high=0.01))
    return found


def plot(result: Result) -> Figure:
    """Draw the training loss over epochs at the best rates."""
    figure, both = panels(2)
    epoch = result.settings["steps_per_epoch"]
    titles = "figure 1, left: logistic regression", "figure 2a: perceptron with dropout"
    for axes, name, title in zip(both, ("regression", "perceptron"), titles, strict=True):
        arms = {label: arm for label, arm in result.curves[name].items() if not label.startswith("Adam, scaled")}
        for label, arm in arms.items():
            band(axes, np.asarray(arm["steps"]) / epoch, arm["loss"], label, 5)
        rates = ", ".join(f"{label} {arm['rates'][arm['best']]:.2g}" for label, arm in arms.items())
        axes.set_title(f"{title}, {result.data}", loc="left", fontsize=10, pad=16)
        axes.text(0, 1.02, f"alpha: {rates}", transform=axes.transAxes, fontsize=7.5)
        axes.set(yscale="log", xlabel="epochs", ylabel="training loss at the best rate")
    for label in set(result.curves["perceptron"]) - set(result.curves["regression"]):
        both[0].plot([], [], label=label, **arm_style(label, 5))
    legend(figure, both[0], columns=5)
    return figure
