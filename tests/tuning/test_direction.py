"""No tool trains an optimizer that ascends: all check before the first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax
import optuna
import pytest
from tuning.line import LINE

import lrx
from lrx.training import plan as plans
from lrx.tuning import Method, log_uniform

TOOLS: dict[str, Callable[[Any], Any]] = {
    "sweep": lambda tx: lrx.sweep(LINE, lambda lr: tx(lr), {"lr": [0.1, 0.2]}, num_steps=5),
    "range_test": lambda tx: lrx.range_test(LINE, tx),
    "successive_halving": lambda tx: lrx.successive_halving(
        LINE, lambda lr: tx(lr), {"lr": [0.1, 0.2, 0.3]}, num_steps=9
    ),
    "halve_until_trains": lambda tx: lrx.halve_until_trains(LINE, tx, start_rate=0.1),
    "optuna_objective": lambda tx: optuna.create_study().optimize(
        lrx.optuna_objective(LINE, lambda lr: tx(lr), {"lr": log_uniform(0.01, 0.1)}, num_steps=5), n_trials=1
    ),
    "select": lambda tx: lrx.select(LINE, num_steps=400, portfolio={"mine": Method(lambda rate, num_steps: tx(rate))}),
    "select, its range test": lambda tx: lrx.select(
        LINE, num_steps=400, portfolio={"mine": Method(lambda rate, num_steps: lrx.sgd(rate), range_test_of=tx)}
    ),
}
ASCENDING: dict[str, Callable[[Any], Any]] = {
    "a rate behind an optimizer with one": lambda rate: optax.chain(optax.adam(0.1), lrx.constant(rate)),
    "no rate": lambda rate: optax.scale_by_adam(),
}


@pytest.mark.parametrize("what", ASCENDING)
@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_refuses_what_ascends_before_it_trains(
    tool: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "Plan", None)  # what compiles the training steps
    with pytest.raises(ValueError, match="tx must descend, got updates that ascend") as refused:
        TOOLS[tool](ASCENDING[what])
    assert ("multiplier()" if "behind" in what else "no learning rate applies the minus sign") in str(refused.value)
