"""Adam: each coordinate steps by about the rate, whatever its gradient's size, from the first step on.

D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv 1412.6980. With m_0 = v_0 = 0,

    m_t = b1 m_{t-1} + (1 - b1) g_t             m^ = m_t / (1 - b1^t)
    v_t = b2 v_{t-1} + (1 - b2) g_t^2           v^ = v_t / (1 - b2^t)
    theta_t = theta_{t-1} - alpha m^ / (sqrt(v^) + eps)

The figures are figure 1, left (L2-regularized logistic regression on MNIST, minibatches of 128, alpha_t = alpha / sqrt
t: Adam as fast as SGD with Nesterov momentum, both faster than AdaGrad), figure 2a (a perceptron with two hidden layers
of 1,000 ReLU and dropout, minibatches of 128: Adam below AdaGrad, RMSProp and SGD-Nesterov), figure 4 (a variational
autoencoder with and without the bias correction, over b1, b2 and alpha), and the two statements of section 2.1: the
step does not change with the scale of the gradients, and it is at most

    alpha (1 - b1) / sqrt(1 - b2)   if 1 - b1 > sqrt(1 - b2),   alpha otherwise.

The first is the step for a gradient that comes after only zeros. It does not bound the step for every sequence of
gradients: by Cauchy and Schwarz the bound is, for long runs and b1^2 < b2,

    alpha (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2)),

and gradients that grow by b2 / b1 a step attain it: 7.3 alpha in place of 3.2 alpha for the usual b1 = 0.9, b2 = 0.999.

Adam without bias correction is Adam with the rate alpha (1 - b1^t) / sqrt(1 - b2^t), up to eps (section 2): here it is
`lrx.adam` with a table of rates. For b2 near 1 it starts with a rate that is far too large.

    lrx reproduce kingma_2015                     digits, small networks: 45 seconds on 2 CPU cores
    lrx reproduce kingma_2015 --scale cpu         MNIST: 25 minutes on 2 CPU cores
    lrx reproduce kingma_2015 --scale paper       MNIST, 45 and 200 epochs and the whole autoencoder: for a GPU

Differs from the source: it names no rates, weight decay, dropout probabilities or initial weights, and searched the
momentum too. Here the L2 term is 1e-4 / 2 ||W||^2, dropout of one half is on both hidden layers, the momentum is 0.9,
the decay of RMSProp is 0.9, weights start He-normal (those of the regression at 0), and rates come from a grid by
factors of sqrt 10; those of the perceptron are chosen in short runs with one seed. AdaGrad runs with alpha / sqrt t, as
in the text, and with a constant rate, as its authors define it. At cpu the perceptron is trained for fewer epochs, and
so is a smaller autoencoder. Figure 1, right (film reviews), figure 2b and figure 3 are left out, and AdaDelta, which
lrx does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lrx
from lrx.figures import BLUE, GREEN, VERMILION, Figure, legend, panels
from lrx.papers.arms import Arm, compare, compare_after_trials, decades, final_values, with_own
from lrx.papers.figures import REFERENCE, arm_style, band, describe
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.runs import strategy_of_networks, sweep_seeds
from lrx.papers.steps import largest_of_parts, last_steps, longest_steps
from lrx.records import Result, round_to_six_digits
from lrx.training import Workload
from lrx.workloads.autoencoder import make_autoencoder_workload
from lrx.workloads.datasets import load
from lrx.workloads.perceptron import make_perceptron_workload


class Size(NamedTuple):
    """Sizes of the networks, and epochs of their training."""

    regression_epochs: int
    widths: tuple[int, ...]  # of the perceptron's hidden layers
    trial_epochs: int  # of the perceptron with each rate and one seed, to choose its rates; 0: in the full runs
    epochs: int  # of the perceptron with the best rates and all seeds
    hidden: int  # units of the autoencoder's two hidden layers
    latent: int
    autoencoder_epochs: int


SCALES = {
    "demo": Scale(
        "digits: logistic regression for 45 epochs, a perceptron of 2 x 100 units for 30, an autoencoder",
        "45 s, 2 CPU cores",
        Size(45, (100, 100), 0, 30, 32, 4, 20),
        "digits",
    ),
    "cpu": Scale(
        "MNIST: logistic regression for 45 epochs, a perceptron of 2 x 1000 units for 5, a small autoencoder",
        "25 minutes, 2 CPU cores",
        Size(45, (1000, 1000), 1, 5, 64, 10, 1),
        "mnist",
    ),
    "paper": Scale(
        "MNIST: logistic regression for 45 epochs, a perceptron of 2 x 1000 units for 200, the whole autoencoder",
        "an hour, one data-centre GPU (estimated)",
        Size(45, (1000, 1000), 20, 200, 500, 50, 100),
        "mnist",
    ),
}
BATCH_SIZE = 128
L2 = 1e-4
DROPPED = 0.5


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
B1, B2 = (0.0, 0.9), (0.99, 0.999, 0.9999)  # of figure 4
RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
QUIET_STEPS = 100_000  # of zeros, after which 1 - b2^t is 1 for every b2
LOUD_STEPS = 200  # of growing gradients, the first of which count for nothing
STEP_RATE = 1e-3  # with which the steps of a training are measured
TRAINING_STEPS = 2500


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train the three models, and measure the steps."""
    dataset = load(job.data, job.data_dir)
    regression = make_perceptron_workload(dataset, l2=L2, batch_size=BATCH_SIZE)
    steps = size.regression_epochs * regression.batches.steps_per_epoch
    arms = compare(regression, with_own(REGRESSION, job), job, num_steps=steps, name="regression", strategy="vmap")
    chosen = arms["Adam"]["rates"][arms["Adam"]["best"]]
    scaled = {
        "Adam, scaled": Arm(lambda rate: optax.chain(optax.scale(SCALED), REGRESSION["Adam"].make(rate)), (chosen,))
    }
    arms |= compare(regression, scaled, job, num_steps=steps, name="regression", strategy="vmap")
    perceptron = make_perceptron_workload(dataset, size.widths, dropped=DROPPED, batch_size=BATCH_SIZE)
    coder = make_autoencoder_workload(dataset, size.hidden, size.latent, batch_size=BATCH_SIZE)
    epoch = perceptron.batches.steps_per_epoch
    settings = size._asdict() | {"steps_per_epoch": epoch, "b1": B1, "b2": B2, "rates": RATES}
    return settings, {
        "regression": arms,
        "perceptron": compare_after_trials(
            perceptron,
            with_own(PERCEPTRON, job),
            job,
            trial_steps=size.trial_epochs * epoch,
            num_steps=size.epochs * epoch,
            name="perceptron",
            strategy=strategy_of_networks(),
        ),
        "autoencoder": train_autoencoder(coder, job, size.autoencoder_epochs),
        "streams": last_steps(adam_of(1.0), B1, B2, growing_gradients, QUIET_STEPS),
        "training": training_steps(regression, job),
    }


def train_autoencoder(workload: Workload, job: Job, epochs: int) -> np.ndarray:
    """Train with each b1, b2 and alpha, with and without correction; return the losses of the last tenth of the steps.

    Their axes are (b1, b2, 2, alpha, seeds).
    """
    num_steps = epochs * workload.batches.steps_per_epoch

    def make(b1: Any, b2: Any, corrected: Any, rate: Any) -> optax.GradientTransformation:
        factors = jnp.where(corrected == 1, 1.0, uncorrection(b1, b2, num_steps))
        return lrx.adam(lrx.tabulated(factors) * rate, b1=b1, b2=b2)

    grid = {"b1": B1, "b2": B2, "corrected": (1, 0), "rate": RATES}
    name, strategy = "autoencoder", strategy_of_networks()
    swept = sweep_seeds(workload, make, grid, job, name, num_steps=num_steps, title=name, strategy=strategy)
    return round_to_six_digits(swept.final_loss)


def uncorrection(b1: Any, b2: Any, num_steps: int) -> jax.Array:
    """Return (1 - b1^t) / sqrt(1 - b2^t), t = 1, 2, ...: the step without correction over that with it."""
    t = jnp.arange(1, num_steps + 1)
    return -jnp.expm1(t * jnp.log(b1)) / jnp.sqrt(-jnp.expm1(t * jnp.log(b2)))


def paper_bound(b1: float, b2: float) -> float:
    """Return the bound on a step of section 2.1, over alpha."""
    return max((1 - b1) / np.sqrt(1 - b2), 1.0)


def true_bound(b1: float, b2: float) -> float:
    """Return the largest step of any sequence of gradients in a long run, over alpha; b1^2 < b2."""
    return (1 - b1) / np.sqrt((1 - b2) * (1 - b1**2 / b2))


def growing_gradients(b1: jax.Array, b2: jax.Array) -> jax.Array:
    """Return two streams of gradients, (steps, 2): zeros and then a 1, and gradients that grow by b2 / b1 a step."""
    before = jnp.arange(LOUD_STEPS - 1, -1, -1.0)  # steps until the last
    return jnp.stack([jnp.where(before == 0, 1.0, 0.0), (b1 / b2) ** before], axis=1)


def adam_of(rate: float) -> Callable[[Any, Any], optax.GradientTransformation]:
    """Return a function from b1 and b2 to Adam with a rate."""
    return lambda b1, b2: lrx.adam(rate, b1=b1, b2=b2)


def training_steps(workload: Workload, job: Job) -> dict[str, Any]:
    """Measure the longest steps of a training, over alpha: (b1, b2, seeds, points)."""
    steps = longest_steps(workload, adam_of(STEP_RATE), B1, B2, job.seeds, TRAINING_STEPS)
    ends, longest = largest_of_parts(steps / STEP_RATE, 100)
    return {"steps": ends, "longest": np.round(longest, 5)}


def ratios(arms: Mapping[str, Any], name: str, other: str) -> np.ndarray:
    """Return the final loss of one arm over that of another, for each seed."""
    return final_values(arms[name]) / final_values(arms[other])


def losses_of(result: Result) -> np.ndarray:
    """Return the autoencoder's losses, (b1, b2, 2, alpha, seeds); infinite if a run diverged."""
    losses = result.array("autoencoder")
    return np.where(np.isnan(losses), np.inf, losses)


def claims(result: Result) -> list[Claim]:
    """Compare the methods at their best rates, Adam in other units and uncorrected, and its steps with bounds."""
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
    return found + claims_on_correction(result) + claims_on_steps(result)


def claims_on_correction(result: Result) -> list[Claim]:
    """Compare with and without bias correction."""
    losses, found = losses_of(result), []
    large = np.asarray(result.settings["rates"]) > 5e-4
    for b1, by_b2 in zip(result.settings["b1"], losses, strict=True):
        corrected, uncorrected = by_b2[-1][:, large]
        worse = np.isfinite(corrected) & (uncorrected > corrected)
        text = f"figure 4, b1 = {b1:g}, b2 = 0.9999: without correction it diverges or is worse at every alpha >= 1e-3"
        found.append(Claim.of_values(text, "all of them", worse.mean(axis=0), low=1.0))
    best = losses.min(axis=3)  # over alpha: (b1, b2, 2, seeds)
    text = "figure 4: the loss with correction over that without, each at its best alpha, at most 1.02 for any b1, b2"
    found.append(Claim.of_values(text, "<= 1", (best[:, :, 0] / best[:, :, 1]).max(axis=(0, 1)), high=1.02))
    return found


def claims_on_steps(result: Result) -> list[Claim]:
    """Compare the steps with the bound of section 2.1, and with that of Cauchy and Schwarz."""
    pairs = [(b1, b2) for b1 in result.settings["b1"] for b2 in result.settings["b2"]]
    stated = np.array([paper_bound(*pair) for pair in pairs])
    true = np.array([true_bound(*pair) for pair in pairs])
    sparse, growing = result.array("streams").reshape(-1, 2).T
    longest = result.array("training", "longest").max(axis=-1).reshape(len(pairs), -1)
    rounding = 1 + 1e-4  # of a float32 sum
    text = "section 2.1: after zeros alone the step is the bound, for any b1, b2: off by less than 1 %"
    found = [Claim.of_values(text, "0 %", 100 * np.abs(sparse / stated - 1).max(), high=1.0)]
    for b1, b2 in ((0.9, 0.999), (0.9, 0.99)):  # one of each case
        text = f"section 2.1: no step of a logistic regression is beyond the bound, b1 = {b1}, b2 = {b2}"
        values = longest[pairs.index((b1, b2))] / paper_bound(b1, b2)
        found.append(Claim.of_values(text, "<= 1", values, high=rounding))
    text = "section 2.1: nor is one for growing gradients, the worst case, for any b1, b2"
    found.append(Claim.of_values(text, "<= 1", (growing / stated).max(), high=rounding))
    text = "derived here: for growing gradients it is that of Cauchy and Schwarz, any b1, b2: off by less than 1 %"
    found.append(Claim.of_values(text, "0 %", 100 * np.abs(growing / true - 1).max(), high=1.0))
    text = "derived here: no step of the logistic regression is beyond that, for any b1, b2"
    return [*found, Claim.of_values(text, "<= 1", (longest / true[:, None]).max(axis=0), high=rounding)]


def plot(result: Result) -> dict[str, Figure]:
    """Draw figures 1 and 2a, figure 4, and the steps beside their bounds."""
    return {"training": plot_training(result), "bias_correction": plot_correction(result), "steps": plot_steps(result)}


def plot_training(result: Result) -> Figure:
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


def plot_correction(result: Result) -> Figure:
    """Draw the autoencoder's loss over alpha for each b1 and b2, with and without correction."""
    b1s, b2s, rates = (result.settings[name] for name in ("b1", "b2", "rates"))
    figure, places = panels(len(b2s), rows=len(b1s), sharex=True, sharey=True)
    figure.set_size_inches(10, 6)
    losses = losses_of(result)
    shown = losses[np.isfinite(losses)]
    for place, axes in enumerate(places):
        row, column = divmod(place, len(b2s))
        for kind, label in enumerate(("Adam", "Adam without bias correction")):
            values = np.where(np.isinf(losses[row, column, kind]), 1e9, losses[row, column, kind])
            band(axes, rates, values.T, label, 1, marker="o", ms=3)
        describe(axes, f"b1 = {b1s[row]:g}, b2 = {b2s[column]:g}", xscale="log")
        axes.set(xlabel="alpha", ylabel="loss, nats an image")
        axes.label_outer()
    places[0].set_ylim(0.9 * shown.min(), 1.1 * np.median(losses[:, :, 0, 0]))
    legend(figure, places[0])
    return figure


def plot_steps(result: Result) -> Figure:
    """Draw the longest steps for each b1 and b2, and those of a training over its steps."""
    figure, (left, right) = panels(2)
    b1s, b2s = result.settings["b1"], result.settings["b2"]
    pairs = [(b1, b2) for b1 in b1s for b2 in b2s]
    places = np.arange(len(pairs))
    streams = result.array("streams").reshape(-1, 2)
    longest = result.array("training", "longest")
    for bound, label, ls in (
        (paper_bound, "bound of section 2.1", "-"),
        (true_bound, "Cauchy and Schwarz", (0, (2, 2))),
    ):
        left.hlines(
            [bound(*pair) for pair in pairs],
            places - 0.4,
            places + 0.4,
            label=label,
            color="black",
            lw=1.0,
            ls=ls,
            zorder=1,
        )
    for shift, values, label, marker, color in (
        (-0.2, streams[:, 0], "one gradient after zeros", "o", BLUE),
        (0.0, streams[:, 1], "growing gradients", "^", VERMILION),
        (0.2, longest.max(axis=(-1, -2)).ravel(), "logistic regression, all coordinates and steps", "s", GREEN),
    ):
        left.plot(places + shift, values, marker, color=color, ms=6, label=label)
    left.set_xticks(places, [f"{b1:g}\n{b2:g}" for b1, b2 in pairs])
    left.set(xlabel="b1, b2", ylabel="longest step over alpha")
    steps = result.curves["training"]["steps"]
    for place, b2 in enumerate(b2s):
        label = f"{b1s[-1]:g}, {b2:g}"
        band(right, steps, longest[-1, place], label, place)
        right.axhline(paper_bound(b1s[-1], b2), **REFERENCE | {"color": arm_style(label, place)["color"]})
    right.legend(title="b1, b2", loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9)
    right.set(xlabel="steps t of the logistic regression", ylabel="longest step of a coordinate over alpha")
    for axes in (left, right):
        axes.set_yscale("log")
    legend(figure, left, columns=3)
    return figure


PAPER = Paper(
    name="kingma_2015",
    title="Adam: A Method for Stochastic Optimization",
    authors="D. P. Kingma, J. Ba",
    year=2015,
    source="ICLR 2015, arXiv 1412.6980",
    figure="figures 1 (left), 2a and 4, and the step bound of section 2.1",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("regression",), ("perceptron",)),
)
