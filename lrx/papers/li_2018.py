"""Loss landscapes, comparable by filter normalization: without shortcuts, deep networks have chaotic ones.

H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein, "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018,
arXiv:1712.09913, figures 2, 3, 5 and 7. The loss on a plane through a minimum theta, along random directions whose
filters have the norms of those of theta,

    f(a, b) = L(theta + a d_1 + b d_2),   d_ij <- d_ij ||theta_ij|| / ||d_ij||,

so that the scale of the weights, which does not change a network with batch norm, does not change the picture either.
The deeper a network without shortcuts, the sharper and less convex its plane; with shortcuts depth changes little. Flat
minima have the lower test error. Without the normalization, weight decay makes weights small and minima look sharp.

    lrx reproduce li_2018                 digits, networks of 8 and 20 layers, 3 seeds
    lrx reproduce li_2018 --scale cpu     CIFAR-10 of 8 x 8 pixels, networks of 8 and 56 layers, 3 seeds

Measured at the demo scale, minima of small rates are sharper and worse, and weight decay deceives without the
normalization, as in the paper; depth does not sharpen. Twenty layers without shortcuts (0.1 to 0.9 nats) and small
rates (0.12 to 0.15) are not yet at a minimum, where all others are below 0.04. Depth matters with `--set deep=32
--set slower=20 --set steps=1500`: with one seed, without shortcuts the rise is then 5 times that with shortcuts and 2
times that of eight layers. Sharpness and error do not go together across networks: without weight decay a minimum is
twice as sharp, its error the same. In a first trial 300 steps left 32 layers, and small rates of a twentieth, at 0.8 to
1.3 nats, and seven of the nine claims held; 20 layers, a tenth and 500 steps were then chosen, for their time.

At the cpu scale 56 layers without shortcuts do not learn at all (an error of 90 %), so that their plane is flat where
they end; the claims on its convexity and on their error hold for that reason alone. As in the paper, small rates end in
sharper minima, 2.7 times with weight decay, and weight decay deceives without the normalization. Sharpness and error do
not go together there either.

Differs from the source: small networks and short runs, with a weight decay that is as much larger; in place of large
batches a small rate, whose noise is as small; figure 2 has random directions, all of one length, in place of the line
between two minima. The rise of a plane is the median of L - L(theta) within half of its extent. Its convexity is that
of the plane, from differences between neighbouring points, where figure 7 has the eigenvalues of the whole Hessian.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import lrx
from lrx.diagnostics.landscape_result import draw_alike
from lrx.diagnostics.minima import concavity, median_rise, ring_medians
from lrx.figures import BLUE, DARK, GREEN, GREY, ORANGE, SKY, VERMILION, Figure, legend, panels
from lrx.papers.arms import momentum_with_penalty
from lrx.papers.figures import band, describe
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.residual_networks import Network, residual_workload, train_to_ends
from lrx.papers.statistics import rank_correlation
from lrx.records import Result, round_to_six_digits
from lrx.training import Workload


class Size(NamedTuple):
    """The networks, their training, and the planes."""

    network: Network
    shallow: int  # layers
    deep: int
    steps: int
    decay: float  # of the weights
    points: int  # along each side of a plane, odd
    rate: float = 0.1
    slower: float = 10.0  # by which the small rate is lower


SCALES = {
    "demo": Scale(
        "residual and plain networks of 8 and 20 layers, 500 steps, planes of 11 x 11 points, 3 seeds",
        "a minute, 2 CPU cores",
        Size(Network(1437, 360, 256, 32, 8), 8, 20, 500, 5e-3, 11),
        "digits",
    ),
    "cpu": Scale(
        "residual and plain networks of 8 and 56 layers, 1,500 steps, planes of 17 x 17 points, 3 seeds",
        "10 minutes, 1 CPU core",
        Size(Network(10_000, 2000, 500, 64, 16, 4), 8, 56, 1500, 5e-3, 17),
        "cifar10",
    ),
    "paper": Scale(
        "ResNet-20 and ResNet-56 with and without shortcuts, 300 epochs, planes of 51 x 51 points, 3 seeds",
        "24 hours on one GPU",
        Size(Network(50_000, 10_000, 2000, 128, 0), 20, 56, 117_000, 5e-4, 51),
        "cifar10",
    ),
}
DROPS = (0.5, 0.75, 11 / 12)  # of the run, where the rate is divided by 10
EXTENT = 1.0  # half of a plane, in lengths of the directions
UNNORMALIZED = 0.1  # the same for directions of variance 1
COARSE = 7  # points along each side of these planes
NEAR = 0.5  # the distance within which a plane is judged
FLAT = 1e-6  # least rise, nats
HIGHEST = 30.0  # loss of the last contour
RESIDUAL, PLAIN = "shortcuts", "no shortcuts"
# Label to whether it is deep, whether it has shortcuts, and whether it has the large rate and weight decay.
ARMS = {
    f"shallow, {RESIDUAL}": (False, True, True, True),
    f"deep, {RESIDUAL}": (True, True, True, True),
    f"shallow, {PLAIN}": (False, False, True, True),
    f"deep, {PLAIN}": (True, False, True, True),
    "small rate": (False, True, False, True),
    "no decay": (False, True, True, False),
    "small rate, no decay": (False, True, False, False),
}
LARGE, DEEP, PLAIN_SHALLOW, PLAIN_DEEP, SMALL, NO_DECAY, SMALL_NO_DECAY = ARMS
COLORS = dict(zip(ARMS, (BLUE, SKY, ORANGE, VERMILION, GREEN, DARK, GREY), strict=True))


def optimizer(steps: int, rate: Any, decay: Any) -> optax.GradientTransformation:
    """Return Nesterov's momentum with a step schedule and an L2 penalty, as the authors' code has it."""
    schedule = lrx.piecewise_constant(rate, {round(part * steps): 0.1 for part in DROPS})
    return momentum_with_penalty(schedule, decay, nesterov=True)


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train every network with every seed, and measure the loss on planes through where it ends."""
    found: dict[str, Any] = {}
    for deep, shortcuts in dict.fromkeys(arm[:2] for arm in ARMS.values()):
        workload = residual_workload(size.network, size.deep if deep else size.shallow, job, shortcuts=shortcuts)
        arms = {label: arm for label, arm in ARMS.items() if arm[:2] == (deep, shortcuts)}
        members = {
            "rate": [size.rate / (1.0 if is_large else size.slower) for *_, is_large, _ in arms.values()],
            "decay": [size.decay if decays else 0.0 for *_, decays in arms.values()],
        }
        ends = train_to_ends(workload, partial(optimizer, size.steps), members, size.steps, job, next(iter(arms)))
        for label, by_seed in zip(arms, ends, strict=True):
            rows = [
                look_around(workload, *end, size.points, jax.random.key(seed), both=len(arms) > 1)
                for seed, end in zip(job.seeds, by_seed, strict=True)
            ]
            found[label] = {name: round_to_six_digits(np.stack([row[name] for row in rows])) for name in rows[0]}
    return size._asdict(), {"side": np.linspace(-EXTENT, EXTENT, size.points), "minima": found}


def look_around(
    workload: Workload, params: Any, model_state: Any, points: int, key: jax.Array, *, both: bool
) -> dict[str, Any]:
    """Return the evaluations at a minimum, and the training losses on a plane, or on one of both kinds."""
    evaluate = workload.evaluate
    assert evaluate is not None

    def loss(params: Any) -> jax.Array:
        return evaluate(params, model_state)["training_loss"]

    found = {name: np.asarray(value) for name, value in evaluate(params, model_state).items()}
    plane = partial(lrx.landscape, loss, params, key=key)
    found["plane"] = plane(extent=EXTENT, num_points=points).losses
    if both:
        found["unnormalized"] = plane(extent=UNNORMALIZED, num_points=min(points, COARSE), normalization=None).losses
    return found


def rise(result: Result, label: str, kind: str = "plane") -> np.ndarray:
    """Return by how much the loss rises around each minimum, (seeds,), in the median over points that are near."""
    planes, centres = (result.array("minima", label, name) for name in (kind, "training_loss"))
    return np.maximum(median_rise(planes, centres, NEAR), FLAT)


def claims(result: Result) -> list[Claim]:
    """Compare the planes of networks with and without shortcuts, and of both rates, and sharpness with test error."""
    rises = {label: rise(result, label) for label in ARMS}
    errors = {label: result.array("minima", label, "error") for label in ARMS}
    deep = f"{result.settings['deep']} layers"
    found = []
    for text, one, other, low, high in (
        (f"figure 5: {deep}: rise without shortcuts over that with, at least 2", PLAIN_DEEP, DEEP, 2.0, np.inf),
        ("figure 5: without shortcuts: rise deep over shallow, at least 2", PLAIN_DEEP, PLAIN_SHALLOW, 2.0, np.inf),
        ("figure 5: with shortcuts: rise deep over shallow, at most 2", DEEP, LARGE, 0.0, 2.0),
    ):
        found.append(Claim.of_values(text, "> 1" if low else "1", rises[one] / rises[other], low, high))
    plain, shortcuts = (concavity(result.array("minima", label, "plane"), NEAR) for label in (PLAIN_DEEP, DEEP))
    text = f"figure 7: {deep}: |lambda_min / lambda_max| where not convex, without shortcuts minus with, at least 0.01"
    found.append(Claim.of_values(text, "> 0", plain - shortcuts, 0.01))
    text = f"figure 5: {deep}: test error without shortcuts minus that with, at least 0.1 (points)"
    found.append(Claim.of_values(text, "> 0", errors[PLAIN_DEEP] - errors[DEEP], 0.1))
    table = np.array([list(rises.values()), list(errors.values())])  # (2, arms, seeds)
    each = [rank_correlation(*table[:, :, place]) for place in range(table.shape[-1])]
    text = "section 4: rank correlation of rise and test error over all minima, at least 0.5"
    found.append(Claim.of_values(text, "> 0", each, 0.5))
    for text, one, other in (("with", SMALL, LARGE), ("without", SMALL_NO_DECAY, NO_DECAY)):
        text = f"figure 3: {text} weight decay: rise of the small rate over that of the large one, above 1"
        found.append(Claim.of_values(text, "> 1", rises[one] / rises[other], 1.0))
    raw = rise(result, LARGE, "unnormalized") / rise(result, NO_DECAY, "unnormalized")
    text = "figure 2: directions of one length: rise with weight decay over that without, above 1"
    return [*found, Claim.of_values(text, "> 1", raw, 1.0)]


def plot(result: Result) -> dict[str, Figure]:
    """Draw the planes of networks with and without shortcuts, as figure 5 does, and the sharpness of every minimum."""
    return {"landscapes": _planes(result), "sharpness": _sharpness(result)}


def _planes(result: Result) -> Figure:
    figure, axes = panels(4, size=(12, 3.4), grid=False, sharex=True, sharey=True)
    shown = (LARGE, PLAIN_SHALLOW, DEEP, PLAIN_DEEP)
    planes = [result.array("minima", label, "plane")[0] for label in shown]
    draw_alike(figure, axes, np.asarray(result.curves["side"]), planes, lowest=FLAT, highest=HIGHEST)
    for panel, label in zip(axes, shown, strict=True):
        depth, _, kind = label.partition(", ")
        error = result.array("minima", label, "error")[0]
        title = f"{result.settings[depth]} layers, {kind}: error {error:.1f} %"
        describe(panel, title, fontsize=9, xlabel="first direction", xticks=(-1, 0, 1), aspect="equal")
    axes[0].set_ylabel("second direction")
    return figure


def _sharpness(result: Result) -> Figure:
    from matplotlib.ticker import LogLocator

    figure, (left, middle, right) = panels(3, size=(13, 4.4))
    for place, (label, color) in enumerate(COLORS.items()):
        if ARMS[label][:2] == ARMS[LARGE][:2]:
            away, medians = ring_medians(result.array("minima", label, "plane"))
            band(left, away, medians, label, color=color, ls="-" if ARMS[label][3] else "--")
        rises, errors = rise(result, label), result.array("minima", label, "error")
        middle.plot(rises, np.full(len(rises), place - 0.14), "o", color=color, ms=5, alpha=0.75, mew=0)
        right.plot(rises, errors, "o", color=color, ms=6, alpha=0.75, mew=0, label=label)
        if "unnormalized" in result.curves["minima"][label]:
            raw = rise(result, label, "unnormalized")
            middle.plot(raw, np.full(len(raw), place + 0.14), "s", mfc="none", color=color, ms=5, alpha=0.75)
    describe(left, "shallow, shortcuts; dashed: no decay", yscale="log")
    left.set(xlabel="distance, filter-normalized", ylabel="training loss, nats")
    middle.set(xscale="log", xlabel="rise, nats; squares: directions of one length")
    middle.set_yticks(range(len(COLORS)), list(COLORS))
    middle.invert_yaxis()
    right.set(yscale="log", xlabel="rise, filter-normalized, nats", ylabel="test error (%)")
    right.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter("")
    legend(figure, right, columns=7)
    return figure


PAPER = Paper(
    name="li_2018",
    title="Visualizing the Loss Landscape of Neural Nets",
    authors="H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein",
    year=2018,
    source="NeurIPS 2018, arXiv:1712.09913",
    figure="Figures 2, 3, 5 and 7 (filter-normalized planes with and without shortcuts, of two rates), small networks",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
)
