"""RMSProp: divide the gradient by a running mean of its size, which forgets, so it follows a target that moves.

T. Tieleman, G. Hinton, "Lecture 6.5 - rmsprop: divide the gradient by a running average of its recent magnitude",
Coursera: Neural Networks for Machine Learning, 2012. It has no figure; its statements are checked here, and their
consequences:

    v_t = rho v_{t-1} + (1 - rho) g_t^2,   theta_t = theta_{t-1} - eta g_t / sqrt(v_t),   rho = 0.9

- The sign of the gradient, as in Rprop, is the case rho = 0. Nine gradients and a tenth, nine times as large and of the
  opposite sign, should hardly move a weight, but their signs move it by 8 eta.
- v starts at 0, so under a constant gradient the length of step t is eta / sqrt(1 - rho^t): for the first step 3.2 or
  10 times eta if rho is 0.9 or 0.99, whatever the scale of the gradient.
- Adam without a first moment divides v_t by 1 - rho^t. So RMSProp is Adam with b1 = 0 and the rates
  eta / sqrt(1 - rho^t), which undo that correction.
- AdaGrad's sum of squares forgets nothing, and its rate falls as 1 / sqrt t. On f_t(theta) = s_t |theta - c_t|^2 / 2,
  with noisy gradients and a c_t that jumps every 100 steps, a rate that suits the first 1,000 steps becomes
  sqrt(T / 1000) times too small (a rate tuned to T hides this, and follows about as well as that of RMSProp). If s_t
  falls from 1 to 1 / 100, so do the steps of AdaGrad and of SGD.

    lrx reproduce hinton_2012                     20,000 steps, 5 seeds: 12 s on 2 CPU cores
    lrx reproduce hinton_2012 --scale cpu         100,000 steps, 5 seeds: 14 s

At rates that are best for the whole run AdaGrad is a few percent worse than RMSProp on the target that jumps, and plain
SGD is better than both: an adaptive rate has no advantage there.

Differs from the source: the moving target and its numbers are ours. lrx adds eps = 1e-8 inside the root.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.arms import Arm, with_own
from lrx.papers.descent import descend
from lrx.papers.figures import REFERENCE, arm_style, band, describe
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.steps import cycle_drifts, steps_of_constant_gradient
from lrx.records import Result, round_to_six_digits
from lrx.workloads.moving_target import DIMENSIONS, NOISE, PERIOD, SHRUNK, moving_target

SEEDS = (0, 1, 2, 3, 4)


class Size(NamedTuple):
    """The number of steps."""

    steps: int


SCALES = {
    "demo": Scale("20,000 steps, 5 seeds", "12 s, 2 CPU cores", Size(20_000), seeds=SEEDS),
    "cpu": Scale("100,000 steps, 5 seeds", "14 s, 2 CPU cores", Size(100_000), seeds=SEEDS),
    "paper": Scale("as cpu: a lecture has no size of its own", "14 s, 2 CPU cores", Size(100_000), seeds=SEEDS),
}
SHORT = 1000  # steps for which a rate is chosen that then stays
POINTS = 20
GRID = 10**0.25  # from a rate to the next
ARMS = {
    "SGD": Arm(lrx.sgd, tuple(GRID ** np.arange(-10.0, 10.0))),
    "AdaGrad": Arm(lrx.adagrad, tuple(GRID ** np.arange(-6.0, 14.0))),
    "RMSProp": Arm(lambda rate: lrx.rmsprop(rate, decay=0.9), tuple(GRID ** np.arange(-10.0, 6.0))),
}
DECAYS = (0.9, 0.99)
FIRST_RATE = 0.01
FIRST_STEPS = 300
GRADIENT_SCALES = np.geomspace(0.1, 1000, 9)
CYCLE = (0.1,) * 9 + (-0.9,)  # gradients of a weight that should stay, from the lecture


def rmsprop_of(rate: float, decay: Any) -> optax.GradientTransformation:
    """Return RMSProp with a rate and rho."""
    return lrx.rmsprop(rate, decay=decay)


def follow(steps: int, arm: Arm, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Measure how an arm follows both targets with each rate, and keep the errors at its best rates."""
    rates = np.asarray(arm.rates)

    def one(rate: jax.Array, seed: jax.Array, shrinks: jax.Array) -> tuple[jax.Array, jax.Array]:
        gradient, error = moving_target(steps, seed, shrinks)
        start = jnp.zeros(DIMENSIONS)
        # Counts from 0 on: each point before its own gradient is known.
        errors = descend(gradient, arm.make(rate), start, np.arange(steps), error, jax.random.key(seed), timed=True)
        return jnp.mean(errors[:SHORT]), jnp.mean(errors.reshape(POINTS, -1), axis=1)

    each = jax.vmap(jax.vmap(jax.vmap(one, (None, 0, None)), (0, None, None)), (None, None, 0))
    early, parts = jax.jit(each)(jnp.asarray(rates, jnp.float32), jnp.asarray(seeds), jnp.array([False, True]))

    def best(errors: jax.Array, problem: int) -> dict[str, Any]:
        means = np.nan_to_num(np.mean(np.asarray(errors, np.float64), axis=1), nan=np.inf)  # over seeds
        place = int(np.argmin(means))
        found = {"rates": rates, "errors": means, "best": place, "chosen_by": errors[place]}
        return {key: round_to_six_digits(value) for key, value in found.items()} | {
            "best": place,
            "parts": round_to_six_digits(parts[problem, place]),  # (seeds, points)
        }

    return {
        "early": best(early[0], 0),
        "whole": best(jnp.mean(parts[0], axis=-1), 0),
        "shrinking": best(jnp.mean(parts[1], axis=-1), 1),
    }


def distance_from_adam(seeds: tuple[int, ...]) -> np.ndarray:
    """Measure the largest distance between RMSProp and Adam whose rates undo its correction: (decays, seeds).

    It is in units of the length of RMSProp's path to the moving target.
    """
    counts, start = np.arange(FIRST_STEPS + 1), jnp.zeros(DIMENSIONS)

    def one(decay: jax.Array, undone: jax.Array, seed: jax.Array) -> jax.Array:
        gradient, _ = moving_target(FIRST_STEPS, seed)

        def path(tx: optax.GradientTransformation) -> jax.Array:
            return descend(gradient, tx, start, counts, lambda theta, _: theta, jax.random.key(seed), timed=True)

        rmsprop = path(lrx.rmsprop(FIRST_RATE, decay=decay, eps=0.0))
        adam = path(lrx.adam(lrx.tabulated(FIRST_RATE * undone), b1=0.0, b2=decay, eps=0.0))
        length = jnp.sum(jnp.abs(jnp.diff(rmsprop, axis=0)), axis=0)
        return jnp.max(jnp.max(jnp.abs(rmsprop - adam), axis=0) / length)

    rates = [1 / np.sqrt(1 - decay ** np.arange(1.0, FIRST_STEPS + 1)) for decay in DECAYS]
    each = jax.vmap(jax.vmap(one, (None, None, 0)), (0, 0, None))
    return np.asarray(jax.jit(each)(jnp.asarray(DECAYS), jnp.asarray(rates, jnp.float32), jnp.asarray(seeds)))


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Follow both targets with every arm, and measure first steps, distance from Adam and the drift of the lecture."""
    settings = {"steps": size.steps, "short": SHORT, "period": PERIOD, "noise": NOISE, "shrunk": SHRUNK}
    names = [f"{decay:g}" for decay in DECAYS]
    of_scales = steps_of_constant_gradient(rmsprop_of, FIRST_RATE, DECAYS, GRADIENT_SCALES, FIRST_STEPS)
    lengths = dict(zip(names, of_scales, strict=True))
    return settings, {
        "steps": (np.arange(POINTS) + 0.5) * size.steps / POINTS,
        "arms": {name: follow(size.steps, arm, job.seeds) for name, arm in with_own(ARMS, job).items()},
        "lengths": {decay: round_to_six_digits(each[len(each) // 2]) for decay, each in lengths.items()},
        "first": {decay: round_to_six_digits(each[:, 0]) for decay, each in lengths.items()},
        "adam": dict(zip(names, distance_from_adam(job.seeds), strict=True)),
        "drift": dict(zip(["0", *names], cycle_drifts(rmsprop_of, (0.0, *DECAYS), CYCLE), strict=True)),
    }


def claims(result: Result) -> list[Claim]:
    """Compare the errors of the arms, the first steps, Adam and the drift with what follows from the rule."""
    arms = result.curves["arms"]
    steps, first_steps = result.settings["steps"], result.settings["short"]

    def error(name: str, choice: str) -> np.ndarray:
        return result.array("arms", name, choice, "parts").mean(axis=1)

    found = []
    for name in ARMS:
        late = result.array("arms", name, "early", "parts")[:, -(POINTS // 10) :].mean(axis=1)
        grown = late / result.array("arms", name, "early", "chosen_by")
        text = (
            f"{name} at the rate that is best for the first {first_steps:,} steps: error of the last tenth over theirs"
        )
        if name == "AdaGrad":
            found.append(Claim.of_values(f"{text}, at least 2", "> 2", grown, 2.0))
        else:
            found.append(Claim.of_values(f"{text}, at most 1.2", "1", grown, high=1.2))
    for name in ARMS:
        arm = arms[name]
        expected = np.sqrt(steps / first_steps) if name == "AdaGrad" else 1.0
        whole, early = (arm[choice]["rates"][arm[choice]["best"]] for choice in ("whole", "early"))
        text = f"{name}: best rate for {steps:,} steps over that for {first_steps:,}, within one place of the grid"
        low, high = expected / GRID / 1.01, expected * GRID * 1.01
        found.append(Claim.of_values(text, f"{expected:.3g}", whole / early, low, high))
    text = "a jumping target, each at its best rate for the whole run: AdaGrad's error over RMSProp's, above 1"
    found.append(Claim.of_values(text, "> 1", error("AdaGrad", "whole") / error("RMSProp", "whole"), 1.0))
    for name in ("AdaGrad", "SGD"):
        text = f"gradients that shrink to {SHRUNK:g}, each at its best rate: {name}'s error over RMSProp's, at least 2"
        ratio = error(name, "shrinking") / error("RMSProp", "shrinking")
        found.append(Claim.of_values(text, "> 2", ratio, 2.0))
    for decay in result.curves["first"]:
        theory = 1 / np.sqrt(1 - float(decay))
        off = np.max(np.abs(result.array("first", decay) / theory - 1))
        text = f"rho = {decay}: the first step is 1 / sqrt(1 - rho) rates for gradients of 0.1 to 1,000, off by < 0.1 %"
        found.append(Claim.of_values(text, "0", off, high=1e-3))
        later = result.array("lengths", decay)
        off = np.max(np.abs(later * np.sqrt(1 - float(decay) ** np.arange(1, len(later) + 1)) - 1))
        text = f"rho = {decay}: step t under a constant gradient is 1 / sqrt(1 - rho^t) rates long, off by < 0.1 %"
        found.append(Claim.of_values(text, "0", off, high=1e-3))
    for decay, distance in result.curves["adam"].items():
        text = f"rho = {decay}: RMSProp is Adam with b1 = 0 and its correction taken back: paths differ by < 1e-4"
        found.append(Claim.of_values(text, "0", distance, high=1e-4))
    drifts = result.curves["drift"]
    text = "the lecture's ten gradients: the sign alone, rho = 0, drifts by 8 rates, off by < 1 %"
    found.append(Claim.of_values(text, "8", abs(drifts["0"]), 7.92, 8.08))
    text = "the lecture's ten gradients: RMSProp with rho = 0.9 drifts by less than 1 rate"
    return [*found, Claim.of_values(text, "0", abs(drifts["0.9"]), high=1.0)]


def plot(result: Result) -> dict[str, Figure]:
    """Draw how the arms follow both targets, and the first steps."""
    figure, (left, right) = panels(2, sharey=True)
    steps = result.array("steps")
    for place, name in enumerate(result.curves["arms"]):
        band(left, steps, result.curves["arms"][name]["early"]["parts"], name, place)
        band(right, steps, result.curves["arms"][name]["shrinking"]["parts"], name, place)
    describe(left, f"a jumping target, rates best for the first {SHORT:,} steps")
    describe(right, "gradients shrink to 1 % half way, rates best for the whole run")
    for axes in (left, right):
        axes.set(yscale="log", xlabel="steps")
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_yticks([0.1, 0.2, 0.5, 1, 2])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    left.set_ylabel("mean square distance from the target")
    legend(figure, left, columns=3)
    first, (axes,) = panels()
    for place, (decay, lengths) in enumerate(result.curves["lengths"].items()):
        count = np.arange(1, len(lengths) + 1)
        axes.plot(count, lengths, label=rf"RMSProp, $\rho$ = {decay}", **arm_style(f"rho {decay}", place), lw=2.2)
        theory = 1 / np.sqrt(1 - float(decay) ** count)
        axes.plot(count, theory, label=r"$1 / \sqrt{1 - \rho^t}$", **REFERENCE | {"zorder": 5})
    axes.set(xscale="log", yscale="log")
    axes.set_yticks([1, 2, 3, 5, 10], ["1", "2", "3", "5", "10"])
    axes.set(xlabel="step t under a constant gradient", ylabel=r"length of the step, in units of the rate $\eta$")
    legend(first, axes, columns=3)
    return {"moving_target": figure, "first_steps": first}


PAPER = Paper(
    name="hinton_2012",
    title="Lecture 6.5 - rmsprop: divide the gradient by a running average of its recent magnitude",
    authors="T. Tieleman, G. Hinton",
    year=2012,
    source="Coursera: Neural Networks for Machine Learning",
    figure="the lecture's argument, as the distance from a moving target over steps, and the first steps",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("arms",),),
)
