"""AdaGrad: a rate for each coordinate pays if the informative features are rare.

J. Duchi, E. Hazan, Y. Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 12,
2011, pages 2121-2159. With s_i = ||g_{1:t,i}||_2 the step is x_i <- x_i - eta g_i / s_i, and for convex losses f_t the
regret against any x* is bounded (theorem 5, diagonal case) by

    sum_t f_t(x_t) - f_t(x*) <= (D^2 / (2 eta) + eta) sum_i ||g_{1:T,i}||_2,   D = max_t ||x_t - x*||_inf

The task is logistic regression on sparse binary features whose frequencies follow Zipf's law, all of the same
importance, in one pass over the data: AdaGrad against stochastic gradient descent with a constant rate and with
alpha / sqrt t, each at the best rate of a grid.

    lrx reproduce duchi_2011                      2,000 features, 8,000 examples: half a minute on 2 CPU cores
    lrx reproduce duchi_2011 --scale cpu          20,000 features, 100,000 examples: a minute

Differs from the source: its experiments are on text and images that are no longer available in that form; the data here
follow the paper's own argument for the method (section 1.3). lrx adds eps inside the root.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.arms import Arm, claim_best_rates_inside_grid, compare, decades, final_values, with_own
from lrx.papers.descent import descend
from lrx.papers.figures import band, sensitivity
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.records import Result
from lrx.workloads.linear import make_sparse_workload

BATCH_SIZE = 32


class Size(NamedTuple):
    """Numbers of features and of examples."""

    features: int
    examples: int

    @property
    def steps(self) -> int:
        return self.examples // BATCH_SIZE


LARGE = Size(20_000, 100_000)
SCALES = {
    "demo": Scale("2,000 features, 8,000 examples seen once, 3 seeds", "half a minute, 2 CPU cores", Size(2000, 8000)),
    "cpu": Scale("20,000 features, 100,000 examples seen once, 3 seeds", "a minute, 2 CPU cores", LARGE),
    "paper": Scale("as cpu: the paper's data are not available", "a minute, 2 CPU cores", LARGE),
}
ARMS = {
    "SGD": Arm(lrx.sgd, decades(-1, 2.5, 2)),
    "SGD, 1 / sqrt t": Arm(lambda rate: lrx.sgd(lrx.inverse_time_decay(rate, 1.0, power=0.5)), decades(0, 3.5, 2)),
    "AdaGrad": Arm(lrx.adagrad, decades(-2, 1.5, 2)),
}
SCALED = 1000.0  # factor on the loss, to which AdaGrad is invariant
REGRET_RATES = (0.1, 0.3, 1.0, 3.0)
REGRET_STEPS = 500
BOX = 5.0  # bound on the coordinates of the best fixed point, which rare features would put at infinity


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train all arms for one pass, AdaGrad with a loss in other units too, and measure its regret."""
    workload = make_sparse_workload(num_features=size.features, num_train=size.examples, batch_size=BATCH_SIZE)
    arms = compare(workload, with_own(ARMS, job), job, num_steps=size.steps)
    chosen = arms["AdaGrad"]["rates"][arms["AdaGrad"]["best"]]
    in_other_units = {"scaled": Arm(lambda rate: optax.chain(optax.scale(SCALED), lrx.adagrad(rate)), (chosen,))}
    arms["AdaGrad, scaled"] = compare(workload, in_other_units, job, num_steps=size.steps)["scaled"]
    return {"features": size.features, "steps": size.steps, "regret_steps": REGRET_STEPS}, {
        "arms": arms,
        "regret": regrets(job),
    }


def regrets(job: Job) -> dict[str, list[tuple[float, float]]]:
    """Return the regret of AdaGrad on streams of minibatches against the best fixed point of a box, and its bound.

    The result maps each rate to the pairs of all seeds.
    """
    from scipy.optimize import minimize  # of JAX's own dependencies

    workload = make_sparse_workload()
    start, unravel = ravel_pytree(workload.init(jax.random.key(0))[0])
    counts = np.arange(REGRET_STEPS)  # from 0 on: each point before its own loss is known

    def loss(x: jax.Array, key: jax.Array, arrays: Any) -> jax.Array:
        places = jax.random.randint(key, (BATCH_SIZE,), 0, workload.batches.num_examples)
        return workload.loss_fn(unravel(x), (), jax.tree.map(lambda array: array[places], arrays), key)[0]

    def keys(stream: jax.Array) -> jax.Array:
        return jax.vmap(lambda count: jax.random.fold_in(stream, count))(counts)  # those of `descend`

    @jax.jit
    def online(rate: jax.Array, stream: jax.Array, arrays: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        def gradient(x: jax.Array, key: jax.Array) -> Any:
            return jax.value_and_grad(loss)(x, key, arrays)

        points = descend(gradient, lrx.adagrad(rate), start, counts, lambda x: x, stream)
        losses, gradients = jax.vmap(gradient)(points, keys(stream))
        return points, jnp.sum(losses), jnp.sum(jnp.linalg.norm(gradients, axis=0))

    @jax.jit
    def hindsight(x: jax.Array, stream: jax.Array, arrays: Any) -> Any:
        return jax.value_and_grad(lambda x: jnp.sum(jax.vmap(loss, (None, 0, None))(x, keys(stream), arrays)))(x)

    found: dict[str, list[tuple[float, float]]] = {f"{rate:g}": [] for rate in REGRET_RATES}
    for seed in job.seeds:
        stream, arrays = jax.random.key(seed), workload.batches.arrays
        best = minimize(
            lambda x, *rest: tuple(np.asarray(part, np.float64) for part in hindsight(jnp.float32(x), *rest)),
            np.asarray(start, np.float64),
            args=(stream, arrays),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-BOX, BOX)] * len(start),
        )
        for rate in REGRET_RATES:
            points, total, norms = online(jnp.float32(rate), stream, arrays)
            distance = float(np.max(np.abs(np.asarray(points) - best.x)))
            bound = (distance**2 / (2 * rate) + rate) * float(norms)
            found[f"{rate:g}"].append((float(total) - float(best.fun), bound))
    return found


def claims(result: Result) -> list[Claim]:
    """Compare AdaGrad with the best of gradient descent, with itself in other units, and with its bound."""
    arms = result.curves["arms"]
    adagrad = arms["AdaGrad"]
    found = []
    for name in ("SGD", "SGD, 1 / sqrt t"):
        text = f"test loss after one pass: AdaGrad's over that of {name}, both at their best rate, is below 1"
        ratios = final_values(adagrad, "loss") / final_values(arms[name], "loss")
        found.append(Claim.of_values(text, "< 1", ratios, high=1.0))
    apart = np.abs(result.array("arms", "AdaGrad, scaled", "loss") / result.array("arms", "AdaGrad", "loss") - 1).max(
        axis=1
    )
    found.append(
        Claim.of_values(
            f"AdaGrad does not notice that the loss is {SCALED:,.0f} times as large: curves differ by less than 1 %",
            "0",
            apart,
            high=0.01,
        )
    )
    parts = [[value / bound for value, bound in seeds] for seeds in result.curves["regret"].values()]
    text = f"eta from {REGRET_RATES[0]:g} to {REGRET_RATES[-1]:g}: the largest regret over the bound of theorem 5"
    found.append(Claim.of_values(text, "0 to 1", np.max(parts, axis=0), 0.0, 1.0))
    found.append(claim_best_rates_inside_grid(arms))
    return found


def plot(result: Result) -> dict[str, Figure]:
    """Draw the training loss over steps at the best rates, and the last loss over rates."""
    figure, (left, right) = panels(2)
    arms = {name: arm for name, arm in result.curves["arms"].items() if not name.startswith("AdaGrad, scaled")}
    for place, (name, arm) in enumerate(arms.items()):
        band(left, arm["steps"], arm["loss"], name, place)
    left.set(xlabel="steps, of one pass over the data", ylabel="training loss at the best rate")
    sensitivity(right, arms)
    right.set_ylabel("training loss, last tenth of the steps")
    legend(figure, left, columns=3)
    return {"sparse": figure}


PAPER = Paper(
    name="duchi_2011",
    title="Adaptive Subgradient Methods for Online Learning and Stochastic Optimization",
    authors="J. Duchi, E. Hazan, Y. Singer",
    year=2011,
    source="JMLR 12, 2121-2159",
    figure="the argument of section 1.3, as the loss over steps and rates",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
    arms=(("arms",),),
)
