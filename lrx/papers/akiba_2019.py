"""Optuna: samplers that learn from earlier trials, and pruning of those that begin badly, to find a learning rate.

T. Akiba, S. Sano, T. Yanase, T. Ohta, M. Koyama, "Optuna: A Next-generation Hyperparameter Optimization Framework",
KDD 2019, arXiv:1907.10902, figures 9 and 11 in spirit: the best value over trials with the tree-structured Parzen
estimator (TPE) and with random search, and the time that is saved by stopping trials which are worse than the median of
earlier ones at the same step.

Measured at the demo scale, pruning leaves two thirds of the steps, not half: the median pruner lets the first five
trials of twenty run to their end. At the cpu scale it leaves 57 %, with thirty trials, and TPE is at least as good as
random search in three studies of four.

    lrx reproduce akiba_2019                 digits, a perceptron, 20 trials, 10 studies for each of 3 seeds
    lrx reproduce akiba_2019 --scale cpu     CIFAR-10 of 8 x 8 pixels, two convolutions, 30 trials, 20 studies for each

Differs from the source: the only hyperparameter is the rate, from 1e-5 to 10, and a study is repeated many times, so
its trials read a table of curves that were trained once, at rates so close that between them the error is interpolated
in the logarithm of the rate. `lrx.optuna_objective` is what trains each trial.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import lrx
from lrx.figures import Figure, legend, panels
from lrx.papers.arms import decades
from lrx.papers.figures import REFERENCE, arm_style, band
from lrx.papers.reproduction import Claim, Job, Paper, Scale
from lrx.papers.runs import sweep_seeds
from lrx.papers.small_images import CHANCE, Images, load_problem, replace_divergence, workload_of
from lrx.records import Result, round_to_six_digits


class Size(NamedTuple):
    """Data and network, the table of curves, and the studies."""

    images: Images
    steps: int
    each: int  # rates in a decade of the table
    trials: int  # of a study
    studies: int  # for each seed of the network
    batch_size: int = 64


SCALES = {
    "demo": Scale(
        "a perceptron of 64 units, 200 steps, 31 rates, 20 trials, 10 studies for each of 3 seeds",
        "half a minute, 2 CPU cores",
        Size(Images("perceptron", 1437, 360, 1, (64,)), 200, 5, 20, 10),
        "digits",
    ),
    "cpu": Scale(
        "two convolutions, 1,000 steps, 31 rates, 30 trials, 20 studies for each of 3 seeds",
        "4 minutes, 1 CPU core",
        Size(Images("convolutions", 10_000, 2000, 4, (16, 32)), 1000, 5, 30, 20),
        "cifar10",
    ),
    "paper": Scale(
        "two wide convolutions, 10,000 steps, 61 rates, 40 trials, 50 studies for each of 3 seeds",
        "hours on one GPU",
        Size(Images("convolutions", 50_000, 10_000, 1, (64, 128)), 10_000, 10, 40, 50, 128),
        "cifar10",
    ),
}
RANGE = (-5.0, 1.0)  # log10 of the rates
TIMES = 10  # evaluations of a trial, at which it may be pruned
RANDOM, TPE, PRUNED, GRID = "random search", "TPE", "TPE with pruning", "grid"
OFTEN = 0.6  # of the studies, in which TPE is at least as good
HALF = 0.5  # of the steps, that pruning leaves
SHOWN_FROM = 5  # trials, whose best error is at the top of a panel
POINTS = 0.5  # of test error, that it may cost


def measure(size: Size, job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train the table of curves, and run the studies on it."""
    workload = workload_of(load_problem(size.images, job), f"{job.data}, {size.images.network}", size.batch_size)
    rates = decades(*RANGE, size.each)
    swept = sweep_seeds(
        workload,
        lambda lr: lrx.sgd(lrx.linear_decay(lr, size.steps), momentum=0.9),
        {"lr": rates},
        job,
        "table",
        num_steps=size.steps,
        evaluate_every=max(1, size.steps // TIMES),
        strategy=size.images.strategy,
    )
    table = replace_divergence(swept.evaluation_curves["error"])  # (rates, seeds, times)
    found: dict[str, Any] = {name: {"best": [], "steps": []} for name in (RANDOM, TPE, PRUNED)}
    for place in range(len(job.seeds)):
        for study in range(size.studies):
            for name, each in found.items():
                best, spent = search(name, np.log10(rates), table[:, place], size.trials, study)
                each["best"].append(best)
                each["steps"].append(spent)
    evenly = np.linspace(*RANGE, size.trials)
    ends = [np.interp(evenly, np.log10(rates), table[:, place, -1]).min() for place in range(len(job.seeds))]
    return size._asdict(), {
        "table": {"rates": list(rates), "error": round_to_six_digits(table[..., -1])},
        "studies": {name: {key: round_to_six_digits(each[key]) for key in each} for name, each in found.items()},
        "grid": round_to_six_digits(ends),
    }


def search(name: str, log_rates: np.ndarray, curves: np.ndarray, trials: int, seed: int) -> tuple[Any, Any]:
    """Run a study on a table of curves.

    Args:
      name: RANDOM, TPE or PRUNED.
      log_rates: (rates,) log10 of the rates of the table.
      curves: (rates, times) test errors in percent.
      trials: number of trials.
      seed: of the sampler.

    Returns:
      The best error after each trial, and the evaluations made by then over those of one whole trial, both (trials,).
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = optuna.samplers
    sampler = samplers.RandomSampler(seed=seed) if name == RANDOM else samplers.TPESampler(seed=seed)
    pruner = optuna.pruners.MedianPruner() if name == PRUNED else optuna.pruners.NopPruner()
    study = optuna.create_study(sampler=sampler, pruner=pruner)
    times = curves.shape[1]
    best: list[float] = []
    spent: list[float] = []
    for _ in range(trials):
        trial = study.ask()
        at = np.log10(trial.suggest_float("lr", 10 ** RANGE[0], 10 ** RANGE[1], log=True))
        curve = [float(np.interp(at, log_rates, curves[:, time])) for time in range(times)]
        made = times
        for time, value in enumerate(curve):
            trial.report(value, time)
            if time < times - 1 and trial.should_prune():
                made = time + 1
                break
        pruned = made < times
        study.tell(trial, None if pruned else curve[-1], optuna.trial.TrialState.PRUNED if pruned else None)
        best.append(min([*best[-1:], *([] if pruned else curve[-1:])], default=CHANCE))
        spent.append((spent[-1] if spent else 0.0) + made / times)
    return best, spent


def last(result: Result, name: str, what: str = "best") -> np.ndarray:
    """Return what each study had reached, or spent, after its last trial, (seeds, studies)."""
    return result.array("studies", name, what)[:, -1].reshape(len(result.seeds), -1)


def claims(result: Result) -> list[Claim]:
    """Compare TPE with random search, and studies with and without pruning."""
    random, tpe, pruned = (last(result, name) for name in (RANDOM, TPE, PRUNED))
    trials = result.array("studies", TPE, "best").shape[1]
    text = f"after {trials} trials TPE is at least as good as random search, part of the studies, at least {OFTEN:g}"
    found = [Claim.of_values(text, "most", (tpe <= random).mean(axis=1), OFTEN)]
    text = "mean test error of the best trial: TPE minus random search, at most 0 (points)"
    found.append(Claim.of_values(text, "< 0", (tpe - random).mean(axis=1), high=0.0))
    text = f"pruning leaves part of the steps, at most {HALF:g}"
    spent = last(result, PRUNED, "steps") / last(result, TPE, "steps")
    found.append(Claim.of_values(text, "less than all", spent.mean(axis=1), high=HALF))
    text = f"and costs test error, at most {POINTS:g} points"
    found.append(Claim.of_values(text, "0", (pruned - tpe).mean(axis=1), high=POINTS))
    text = f"random search with {trials} trials minus a grid of as many rates, at most {POINTS:g} points"
    apart = random.mean(axis=1) - result.array("grid")
    return [*found, Claim.of_values(text, "0: one hyperparameter", apart, high=POINTS)]


def plot(result: Result) -> dict[str, Figure]:
    """Draw the table, the best error over trials, and over the steps that they took."""
    figure, (left, middle, right) = panels(3, size=(13, 4.4))
    band(
        left, result.curves["table"]["rates"], result.array("table", "error").T, "table", middle=np.mean, color="black"
    )
    left.set(xscale="log", xlabel="learning rate", ylabel="test error at the end (%), range of seeds")
    for place, name in enumerate((RANDOM, TPE, PRUNED)):
        best, spent = result.array("studies", name, "best"), result.array("studies", name, "steps")
        look = {**arm_style(name, place), "lw": 1.6}
        middle.plot(np.arange(1, best.shape[1] + 1), best.mean(axis=0), label=name, **look)
        right.plot(spent.mean(axis=0), best.mean(axis=0), **look)
    # The first trials, which are bad with any sampler, would flatten the others.
    low = min(result.array("table", "error").min(axis=0).mean(), result.array("grid").mean())
    high = max(float(np.asarray(line.get_ydata())[:SHOWN_FROM][-1]) for line in middle.get_lines())
    for panel in (middle, right):
        panel.axhline(result.array("grid").mean(), label=f"{GRID} of as many rates", **REFERENCE)
        panel.set_ylim(low - 0.05 * (high - low), high)
    middle.set(xlabel="trials", ylabel="test error of the best trial (%), mean")
    right.set_xlabel("steps, in those of a whole trial")
    legend(figure, middle, columns=4)
    return {"studies": figure}


PAPER = Paper(
    name="akiba_2019",
    title="Optuna: A Next-generation Hyperparameter Optimization Framework",
    authors="T. Akiba, S. Sano, T. Yanase, T. Ohta, M. Koyama",
    year=2019,
    source="KDD 2019, arXiv:1907.10902",
    figure="the best error over trials and steps, with random search, TPE and pruning, for the learning rate",
    scales=SCALES,
    measure=measure,
    claims=claims,
    plot=plot,
)
