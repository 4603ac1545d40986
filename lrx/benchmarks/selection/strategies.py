"""Strategies beside `select`, at equal compute: each returns what it would have chosen with each budget."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lrx.benchmarks.selection.candidates import METHODS
from lrx.benchmarks.selection.curves import CHOOSING
from lrx.benchmarks.selection.replay import Pick, Replay, best_of

BUDGETS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)  # in full runs
HYPERBAND = (0, 1, 2, 4)  # places of 1/27, 1/9, 1/3 and 1 among the stops, after which Optuna's pruner decides
RULE_OF_THUMB = "adamw, warm-up and linear decay"
THUMB_RATES = (1e-3, 3e-4, 3e-3)
RANGE_TEST_STEPS = 100
EVERY_RUN = "every run, one seed"
ADAMW_ALONE = ("adamw, linear decay",)

Strategy = Callable[[Replay], list[Pick]]  # one for each of `BUDGETS`


def default_rate(method: str) -> float:
    """Return the rate to use without any tuning."""
    return float(np.float32(METHODS[method].default))


def at_default(method: str) -> Strategy:
    """Return the strategy that trains nothing and takes a method at its default rate."""

    def choose(replay: Replay) -> list[Pick]:
        return [Pick(method, replay.rate(method, default_rate(method)), 0.0)] * len(BUDGETS)

    return choose


def _full_runs(replay: Replay, pairs: Sequence[tuple[str, float]]) -> list[Pick]:
    """Train as many pairs as the budget allows, in order, and choose the best; the first one if it allows none."""
    on_grid = [(method, replay.rate(method, rate)) for method, rate in pairs]
    picks = []
    for budget in BUDGETS:
        made = on_grid[: math.floor(budget)]
        picks.append(Pick(*(best_of(replay, made) if made else on_grid[0]), float(len(made))))
    return picks


def rule_of_thumb(replay: Replay) -> list[Pick]:
    """Train AdamW with warm-up and linear decay at 1e-3, then at 3e-4 and 3e-3."""
    return _full_runs(replay, [(RULE_OF_THUMB, rate) for rate in THUMB_RATES])


def random_search(replay: Replay) -> list[Pick]:
    """Train random methods at random rates of their grids, over the full length."""
    rng = np.random.default_rng(CHOOSING[replay.seed])
    pairs = []
    for _ in range(math.floor(max(BUDGETS))):
        method = str(rng.choice(list(replay.curves.methods)))
        pairs.append((method, float(rng.choice(METHODS[method].rates))))
    return _full_runs(replay, pairs)


def range_tested(optimizer: str, method: str) -> Strategy:
    """Return the strategy that trains once, at the rate that a range test suggests; its default if that saw no fall.

    The range test has 100 steps, which count.
    """

    def choose(replay: Replay) -> list[Pick]:
        suggestion = float(replay.curves.suggestions[optimizer][replay.seed])
        rate = suggestion if math.isfinite(suggestion) else default_rate(method)
        pick = Pick(method, replay.rate(method, rate), RANGE_TEST_STEPS / replay.curves.num_steps)
        return [pick] * len(BUDGETS)

    return choose


def every_run(replay: Replay) -> list[Pick]:
    """Train every method from every rate of its grid to the end, whatever the budget, and choose the best.

    It shows how far the noise of one seed lets any strategy come that knows nothing of other tasks.
    """
    pairs = [(name, float(rate)) for name, curves in replay.curves.methods.items() for rate in curves.rates]
    return [Pick(*best_of(replay, pairs), float(len(pairs)))] * len(BUDGETS)


class _Spent(Exception):  # noqa: N818
    """A search has used up its compute."""


def with_optuna(methods: Sequence[str]) -> Strategy:
    """Return the search with TPE and Hyperband over methods and their rates.

    A trial draws a method and its rate, log-uniformly over the range of the grid. It is measured at 1/27, 1/9, 1/3 and
    all of a run, where Hyperband may stop it. The choice is the best of the longest runs.
    """

    def choose(replay: Replay) -> list[Pick]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        parts = [replay.parts[place] for place in HYPERBAND]
        picks: list[Pick] = []
        reached: dict[tuple[str, float], int] = {}  # pair to the place of its last stop
        spent = 0.0

        def settle(cost: float) -> None:
            """Choose for each budget that the next `cost` full runs would exceed."""
            while len(picks) < len(BUDGETS) and spent + cost > BUDGETS[len(picks)] + 1e-6:
                furthest = max(reached.values(), default=-1)
                longest = [pair for pair, place in reached.items() if place == furthest]
                best = best_of(replay, longest, furthest) if longest else (methods[0], default_rate(methods[0]))
                picks.append(Pick(best[0], replay.rate(*best), spent))
            if len(picks) == len(BUDGETS):
                raise _Spent

        def objective(trial: Any) -> float:
            nonlocal spent
            method = trial.suggest_categorical("method", list(methods))
            low, high = METHODS[method].rates[[0, -1]].astype(float)
            rate = replay.rate(method, float(low * (high / low) ** trial.suggest_float("place", 0, 1)))
            done, value = 0.0, replay.curves.worst
            for step, (place, part) in enumerate(zip(HYPERBAND, parts, strict=True)):
                settle(part - done)
                spent, done = spent + part - done, part
                value = replay.scores(method, rate, place).metric
                if not math.isfinite(value):
                    raise optuna.TrialPruned("diverged")
                reached[method, rate] = max(place, reached.get((method, rate), -1))
                trial.report(value, 3**step)
                if part < 1 and trial.should_prune():
                    raise optuna.TrialPruned("pruned")
            return value

        study = optuna.create_study(
            study_name=str(CHOOSING[replay.seed]),  # Hyperband's brackets follow from it, and by default it is random
            direction="minimize" if replay.curves.mode == "min" else "maximize",
            sampler=optuna.samplers.TPESampler(seed=CHOOSING[replay.seed]),
            pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=27, reduction_factor=3),
        )
        with contextlib.suppress(_Spent):
            study.optimize(objective, n_trials=10_000)
        return picks

    return choose


def strategies(methods: Sequence[str]) -> dict[str, Strategy]:
    """Return every strategy that needs nothing but stored curves, by name."""
    return {
        "optuna, portfolio": with_optuna(methods),
        "optuna, adamw with linear decay": with_optuna(ADAMW_ALONE),
        "random search": random_search,
        EVERY_RUN: every_run,
        "rule of thumb": rule_of_thumb,
        "range test, sgd one-cycle": range_tested("sgd", "sgd, one-cycle"),
        "range test, adamw one-cycle": range_tested("adamw", "adamw, one-cycle"),
        **{f"default: {method}": at_default(method) for method in methods},
    }
