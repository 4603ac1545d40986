"""What every strategy chooses on one task, and the regret of its choices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lrx.benchmarks.selection.candidates import METHODS
from lrx.benchmarks.selection.curves import CHOOSING, TaskCurves
from lrx.benchmarks.selection.regret import Judge, best_pairs, is_far, mean_regrets
from lrx.benchmarks.selection.replay import NO_COSTS, Pick, Replay
from lrx.benchmarks.selection.report import MOST
from lrx.benchmarks.selection.strategies import BUDGETS, Strategy
from lrx.tuning.selection.certainty import BETTER
from lrx.tuning.selection.policy import Choice, Policy
from lrx.tuning.selection.portfolio import Method

Judging = Callable[[list[tuple[str, float]]], TaskCurves]  # trains pairs with the held-out seeds where that is missing


def by_policy(
    policy: Policy,
    portfolio: Mapping[str, Method],
    evaluation: float = 0.0,
    step_costs: Mapping[str, float] = NO_COSTS,
) -> Strategy:
    """Return the strategy of a policy. If it finds that nothing is learnt, the worst run stands for its choice.

    Args:
      policy: asks for runs of full length, in parts between the stops of the stored curves.
      portfolio: the methods that it may ask for.
      evaluation: the full runs that take as long as an evaluation.
      step_costs: method to how many usual steps take as long as one of its own; 1 for a method that is missing.
    """

    def choose(replay: Replay) -> list[Pick]:
        picks = []
        for budget in BUDGETS:
            try:
                choice, cost = replay.choose(policy, budget, portfolio, evaluation, step_costs)
            except ValueError:  # nothing was learnt
                picks.append(Pick(*_worst(replay), budget))
            else:
                picks.append(_pick(replay, choice, cost))
        return picks

    return choose


def _pick(replay: Replay, choice: Choice, cost: float) -> Pick:
    pick = Pick(choice.method, replay.rate(choice.method, choice.rate), cost)
    if choice.certainty is None:
        return pick
    rivals = tuple((each.method, replay.rate(each.method, each.rate)) for each in choice.certainty.rivals)
    return dataclasses.replace(pick, doubt=round(choice.certainty.probability, 4), rivals=rivals)


def _worst(replay: Replay) -> tuple[str, float]:
    """Return the pair with the largest regret of all."""
    regrets = mean_regrets(replay.curves)
    return max(regrets, key=lambda pair: regrets[pair])


def optimizer_of(method: str) -> str:
    """Return the optimizer of a method, whose name begins with it."""
    return method.split(",")[0]


def sources(curves: TaskCurves, pick: Pick) -> dict[str, float]:
    """Return where the regret of a choice comes from, by the means of all seeds.

    Returns:
      `total`, which is the sum of: `optimizer`, the regret of the best schedule and rate of its optimizer; `schedule`,
      what its schedule adds at its own best rate; `rate`, what its rate adds. And `oracle's method`, the regret of the
      oracle's method at the chosen rate, in multiples of each method's default.
    """
    regrets = mean_regrets(curves)

    def least(pairs: Iterable[tuple[str, float]]) -> float:
        return min(regrets[pair] for pair in pairs)

    total = regrets[pick.method, pick.rate]
    of_method = least(pair for pair in regrets if pair[0] == pick.method)
    of_optimizer = least(pair for pair in regrets if optimizer_of(pair[0]) == optimizer_of(pick.method))
    best, _ = min(regrets, key=lambda pair: regrets[pair])
    carried = pick.rate / METHODS[pick.method].default * METHODS[best].default
    found = {
        "total": total,
        "optimizer": of_optimizer,
        "schedule": of_method - of_optimizer,
        "rate": total - of_method,
        "oracle's method": regrets[best, float(curves.methods[best].rates[curves.methods[best].place(carried)])],
    }
    return {name: round(min(value, MOST), 6) for name, value in found.items()}


def measure(curves: TaskCurves, strategies: Mapping[str, Strategy], judging: Judging | None = None) -> dict[str, Any]:
    """Let every strategy choose on one task with each of the choosing seeds, and judge the choices.

    Args:
      curves: of the task.
      strategies: by name.
      judging: trains what is chosen with the held-out seeds, where that was not done before; None if all was.

    Returns:
      The oracle, the initial value, and for each strategy a list over the seeds of lists over the budgets (of one, if
      all are equal) of choices with their regret; where a strategy says how sure it is, with that and whether, by the
      means of all seeds, another method that it has tried is better by 1 %.

    Raises:
      KeyError: if a choice was not trained with the held-out seeds, and `judging` is None.
    """
    picked = {name: [strategy(Replay(curves, seed)) for seed in CHOOSING] for name, strategy in strategies.items()}
    if judging is not None:
        chosen = [(pick.method, pick.rate) for rows in picked.values() for row in rows for pick in row]
        close = [pair for pair in chosen if not is_far(curves, *pair)]
        curves = judging(list(dict.fromkeys([*best_pairs(curves), *close])))
    judge, regrets = Judge(curves), mean_regrets(curves)

    def judged(pick: Pick) -> dict[str, Any]:
        found = judge(pick.method, pick.rate)
        regret, error = (round(value, 6) if math.isfinite(value) else None for value in found[:2])
        row = {
            "method": pick.method,
            "rate": float(f"{pick.rate:.6g}"),
            "cost": round(pick.cost, 3),
            "regret": regret,
            "error": error,
            "near": found.near,
        }
        if pick.doubt is not None:
            limit = regrets[pick.method, pick.rate] - BETTER
            row |= {"doubt": pick.doubt, "missed": any(regrets[rival] < limit for rival in pick.rivals)}
        return row

    rows = {
        name: [[judged(pick) for pick in (row[:1] if len(set(row)) == 1 else row)] for row in by_seed]
        for name, by_seed in picked.items()
    }
    return {
        "kind": curves.kind,
        "steps": curves.num_steps,
        "metric": curves.metric,
        "initial": judge.initial,
        "oracle": {"method": judge.best[0], "rate": judge.best[1], "value": float(judge.oracle.mean())},
        "strategies": rows,
        "sources": [sources(curves, row[min(BUDGETS.index(3.0), len(row) - 1)]) for row in picked["select"]]
        if "select" in picked
        else [],
    }
