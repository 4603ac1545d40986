"""Several methods side by side, each with a grid of rates and several seeds, as in most papers' figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lrx
from lrx.papers.reproduction import Claim, Job
from lrx.papers.runs import sweep_seeds
from lrx.records import round_to_six_digits
from lrx.training import Workload
from lrx.tuning import SweepResult


class Arm(NamedTuple):
    """A method and the rates that it is tried with."""

    make: Callable[[Any], optax.GradientTransformation]  # rate, which may be traced, to method
    rates: Sequence[float] = (1.0,)


def with_own(arms: Mapping[str, Arm], job: Job) -> dict[str, Arm]:
    """Return a paper's arms and those of the caller, which have no grid of rates.

    Raises:
      ValueError: if a label of the caller's is one of the paper's.
    """
    taken = sorted(set(arms) & set(job.arms))
    if taken:
        raise ValueError(
            f"arms must not be named as the paper's own arms, {', '.join(map(repr, arms))}, got {taken[0]!r}."
        )
    return {**arms, **{label: without_grid(tx) for label, tx in job.arms.items()}}


def without_grid(tx: optax.GradientTransformation) -> Arm:
    """Return an arm that is one transformation, whatever the rate."""
    return Arm(lambda rate: tx)  # noqa: ARG005


def momentum_with_penalty(
    rate: Any, weight_decay: Any, *, nesterov: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Build momentum of 0.9 with an L2 penalty, the usual recipe for image classifiers."""
    return optax.chain(optax.add_decayed_weights(weight_decay), lrx.sgd(rate, momentum=0.9, nesterov=nesterov))


def decades(first: float, last: float, each: int) -> tuple[float, ...]:
    """Return rates from 10^first to 10^last, `each` of them in a decade."""
    return tuple((10.0 ** np.linspace(first, last, round((last - first) * each) + 1)).tolist())


def compare(
    workload: Workload,
    arms: Mapping[str, Arm],
    job: Job,
    *,
    num_steps: int,
    num_points: int = 50,
    evaluate_every: int | None = None,
    metric: str | None = None,
    with_rates: bool = False,
    name: str = "",
    strategy: str = "auto",
) -> dict[str, Any]:
    """Train every arm with every rate and seed, one sweep an arm, and keep the curves of its best rate.

    Args:
      workload: model, data and loss.
      arms: label to arm.
      job: the seeds, the folder of checkpoints and whether to show progress.
      num_steps: length of a run.
      num_points: number of points of the curve of training losses.
      evaluate_every: steps between evaluations; by default only the end is evaluated.
      metric: name of an evaluation, the lower the better, whose last value chooses the best rate; by default the
        training loss of the last tenth of the steps does.
      with_rates: whether to keep the curve of the learning rate too.
      name: name of the comparison, if a paper makes several.
      strategy: strategy of `lrx.sweep`; "map" for a convolutional network, for which trying both takes long.

    Returns:
      For each arm a dict:
        `rates`;
        `final_loss`, (rates, seeds), the training loss of the last tenth of the steps, or the metric; not finite if
          the run diverged;
        `best`, the index of the rate whose mean of it is lowest;
        of that rate `steps`, (points,), `loss`, (seeds, points), `evaluation_steps`, (times,), `evaluations`, name to
          (seeds, times), and with `with_rates` `rate`, (seeds, points).

    Raises:
      ValueError: if an arm has several rates, and each diverges with some seed.
    """
    found = {}
    for label, arm in arms.items():
        swept = sweep_seeds(
            workload,
            lambda lr, arm=arm: arm.make(lr),
            {"lr": arm.rates},
            job,
            f"{name} {label}".strip(),
            num_steps=num_steps,
            num_points=num_points,
            evaluate_every=evaluate_every,
            title=f"{name or workload.name}, {label}",
            strategy=strategy,
        )
        found[label] = summarize_arm(swept, metric=metric, with_rates=with_rates)
    return found


def compare_after_trials(
    workload: Workload,
    arms: Mapping[str, Arm],
    job: Job,
    *,
    trial_steps: int,
    num_steps: int,
    name: str,
    strategy: str = "auto",
) -> dict[str, Any]:
    """Train every arm with every seed at the rate that was best in a shorter run with the first seed.

    Args:
      workload: as in `compare`.
      arms: as in `compare`.
      job: as in `compare`.
      trial_steps: length of the shorter runs; 0 trains with every rate and every seed, as `compare` does.
      num_steps: length of a run.
      name: as in `compare`.
      strategy: as in `compare`.

    Returns:
      What `compare` returns, and for each arm under `tried` the `rates` and `final_loss` of the shorter runs.
    """
    if not trial_steps:
        return compare(workload, arms, job, num_steps=num_steps, name=name, strategy=strategy)
    alone, trial = dataclasses.replace(job, seeds=job.seeds[:1]), f"{name} trial"
    tried = compare(workload, arms, alone, num_steps=trial_steps, num_points=10, name=trial, strategy=strategy)
    best = {label: arm._replace(rates=(tried[label]["rates"][tried[label]["best"]],)) for label, arm in arms.items()}
    found = compare(workload, best, job, num_steps=num_steps, name=name, strategy=strategy)
    for label, arm in found.items():
        arm["tried"] = {key: tried[label][key] for key in ("rates", "final_loss")}
    return found


def compare_schedules(
    workload: Workload,
    schedules: Mapping[str, lrx.Schedule],
    make: Callable[[lrx.Schedule], optax.GradientTransformation],
    rates: Sequence[float],
    job: Job,
    *,
    num_steps: int,
    metric: str | None = None,
    evaluate_every: int | None = None,
    name: str = "",
    strategy: str = "vmap",
) -> dict[str, Any]:
    """Train with every schedule, peak and seed in one program, and with the arms of the caller.

    Args:
      workload: as in `compare`.
      schedules: label to a schedule whose peak is 1.
      make: rate to method.
      rates: the peaks.
      job: as in `compare`.
      num_steps: as in `compare`.
      metric: as in `compare`.
      evaluate_every: as in `compare`.
      name: as in `compare`.
      strategy: as in `compare`.

    Returns:
      What `compare` returns.
    """
    swept = sweep_seeds(
        workload,
        with_each_schedule(schedules, make, num_steps),
        {"shape": range(len(schedules)), "lr": rates},
        job,
        name or "schedules",
        num_steps=num_steps,
        num_points=50,
        evaluate_every=evaluate_every,
        title=name or workload.name,
        strategy=strategy,
    )
    arms = {label: summarize_arm(swept, at=(place,), metric=metric) for place, label in enumerate(schedules)}
    both = with_own(dict.fromkeys(schedules, Arm(lambda lr: make(lrx.constant(lr)))), job)
    own = {label: arm for label, arm in both.items() if label not in schedules}
    return arms | compare(
        workload,
        own,
        job,
        num_steps=num_steps,
        metric=metric,
        evaluate_every=evaluate_every,
        name=name,
        strategy=strategy,
    )


def with_each_schedule(
    schedules: Mapping[str, lrx.Schedule], make: Callable[[lrx.Schedule], optax.GradientTransformation], num_steps: int
) -> Callable[[Any, Any], optax.GradientTransformation]:
    """Return a function from the place of a schedule among others, and its peak, to a method.

    Both may be traced, so that one program trains with all schedules: they are tables of their rates.

    Args:
      schedules: label to a schedule whose peak is 1.
      make: rate to method.
      num_steps: length of a run.
    """
    rates_of = jax.jit(lambda counts: jnp.stack([schedule(counts) for schedule in schedules.values()]))
    table = rates_of(jnp.arange(num_steps))
    return lambda shape, lr: make(lrx.tabulated(lr * table[jnp.asarray(shape, jnp.int32)]))


def summarize_arm(
    swept: SweepResult, *, at: tuple[int, ...] = (), metric: str | None = None, with_rates: bool = False
) -> dict[str, Any]:
    """Return what `compare` keeps of an arm, from a sweep whose last hyperparameter is the rate.

    Args:
      swept: the sweep.
      at: the indices of the arm along the other hyperparameters.
      metric: as in `compare`.
      with_rates: as in `compare`.

    Raises:
      ValueError: if there are several rates, and each diverges with some seed.
    """
    finite = np.isfinite(swept.final_loss[at])
    reached = np.where(finite, swept.final_loss[at] if metric is None else swept.evaluations[metric][at], np.inf)
    means = reached.mean(axis=1)
    if len(means) > 1 and not np.any(np.isfinite(means)):
        raise ValueError("every rate of an arm diverged with some seed: give lower rates.")
    place = int(np.argmin(np.where(np.isnan(means), np.inf, means)))
    here = (*at, place)
    arm = {
        "rates": round_to_six_digits(swept.axes["lr"]),
        "final_loss": round_to_six_digits(reached),
        "best": place,
        "steps": swept.steps + 1,
        "loss": round_to_six_digits(swept.losses[here]),
        "evaluation_steps": swept.evaluation_steps,
        "evaluations": {key: round_to_six_digits(values[here]) for key, values in swept.evaluation_curves.items()},
    }
    if with_rates:
        arm["rate"] = round_to_six_digits(swept.rates[here])
    return arm


def final_values(arm: Mapping[str, Any], metric: str | None = None) -> np.ndarray:
    """Return what an arm reached with its best rate, for each seed: the training loss, or a metric at the end."""
    if metric is not None:
        return np.asarray(arm["evaluations"][metric], np.float64)[:, -1]
    return np.asarray(arm["final_loss"][arm["best"]], np.float64)


def claim_best_rates_inside_grid(arms: Mapping[str, Mapping[str, Any]]) -> Claim:
    """Claim that the best rate of every grid lies inside it, since a better one may lie beyond an end."""
    grids = [arm for arm in arms.values() if len(arm["rates"]) > 1]
    known = sum(0 < arm["best"] < len(arm["rates"]) - 1 for arm in grids)
    text = "every grid of rates has its best rate inside, not at an end"
    return Claim(text, "all", f"{known} of {len(grids)}", known == len(grids))


def claim_near_published(
    text: str, published: Mapping[str, float], reached: Mapping[str, np.ndarray], tolerance: float
) -> Claim:
    """Claim that the mean over seeds of every arm is near its published value, which the paper printed for its data.

    Args:
      text: what is compared.
      published: arm to value.
      reached: arm to the value of each seed.
      tolerance: the largest distance from a published value, in parts of it.
    """
    means = {name: float(values.mean()) for name, values in reached.items()}
    apart = {name: abs(means[name] / value - 1) for name, value in published.items()}
    worst = max(apart, key=lambda name: np.nan_to_num(apart[name], nan=np.inf))
    spread = np.std(reached[worst], ddof=1) / published[worst] if len(reached[worst]) > 1 else None
    return Claim(
        f"{text}, each within {tolerance:.0%}",
        ", ".join(f"{name} {value:.3g}" for name, value in published.items()),
        ", ".join(f"{name} {value:.3g}" for name, value in means.items())
        + f"; {worst} is {apart[worst]:.1%} off"
        + ("" if spread is None else f", ± {spread:.1%} over seeds"),
        bool(apart[worst] <= tolerance),
        published=True,
    )
