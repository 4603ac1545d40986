"""What is swept: grids, random samples, and what is refused before anything is trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tuning.line import momentum_sgd, sgd, squares, swept

import lrx
from lrx.tuning import Execution, Random, log_uniform, uniform
from lrx.tuning.space import make_space


def test_samples_are_drawn_from_their_ranges() -> None:
    found = swept(
        tx=momentum_sgd,
        space=Random({"lr": log_uniform(1e-4, 1e-1), "momentum": uniform(0.0, 0.9)}, num_samples=7),
    )
    assert found.final_loss.shape == (7, 2)
    assert set(found.best()) == {"lr", "momentum"}
    drawn = make_space(Random({"lr": log_uniform(1e-4, 1.0)}, 10_000), seed=0).members["lr"]
    assert drawn.min() >= 1e-4
    assert drawn.max() <= 1.0
    np.testing.assert_allclose(np.quantile(np.log10(drawn), [0.25, 0.5, 0.75]), [-3, -2, -1], atol=0.1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"space": None}, TypeError, "space must be a dict from names of hyperparameters, got space=None"),
        ({"space": {}}, TypeError, r"space must be a dict from names of hyperparameters, got space=\{\}"),
        ({"space": {"lr": []}}, ValueError, r"space\['lr'\] must be a list of at least one finite number"),
        ({"space": {"lr": [np.nan]}}, ValueError, r"space\['lr'\] must be a list of at least one finite number"),
        ({"space": {"lr": "high"}}, TypeError, r"space\['lr'\] must be a list of numbers, got 'high'"),
        ({"space": {"lr": uniform(0, 1)}}, TypeError, "space must be a dict of lists, got ranges, of which a number"),
        ({"space": {"rate": [0.1]}}, TypeError, r"tx must be a function of rate, but tx\(rate=0.1\) failed: "),
        (
            {"space": {"lr": [0.1, -1.0]}},
            ValueError,
            "learning_rate must be a finite number >= 0, got learning_rate=-1.0",
        ),
        ({"num_steps": 0}, ValueError, "num_steps must be a whole number of steps >= 1"),
        ({"execution": "vmap"}, TypeError, "execution must be an lrx.tuning.Execution, got execution='vmap'"),
        ({"tx": 0.1}, TypeError, "tx must be a function of lr, got tx=0.1"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(arguments: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        swept(**arguments)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Random({"lr": 1.0}, 3), TypeError, r"ranges\['lr'\] must be a range, got 1.0: give"),
        (lambda: Random({}, 3), TypeError, r"ranges must be a dict from names of hyperparameters, got ranges=\{\}"),
        (
            lambda: Random({"lr": uniform(0, 1)}, 0),
            ValueError,
            "num_samples must be a whole number of members >= 1",
        ),
        (lambda: Execution("pmap"), ValueError, "strategy must be one of 'auto', 'vmap', 'map', got strategy='pmap'"),
        (lambda: Execution(chunk_size=0), ValueError, "chunk_size must be a whole number of members >= 1"),
    ],
)
def test_bad_samples_and_executions_are_refused(build: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        build()


@pytest.mark.parametrize(
    ("make", "bounds", "message"),
    [
        (log_uniform, (0.0, 1.0), "low must be a finite number > 0, got low=0.0: its logarithm is taken"),
        (log_uniform, (1.0, 0.1), "high must be a finite number > 1.0, got high=0.1"),
        (uniform, (1.0, 1.0), "high must be a finite number > 1.0, got high=1.0"),
        (uniform, (-np.inf, 1.0), "low must be a finite number, got low=-inf"),
    ],
)
def test_ranges_have_two_bounds(make: Any, bounds: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make(*bounds)


TOOLS: dict[str, Any] = {
    "sweep": lambda workload: lrx.sweep(workload, sgd, {"lr": [0.1]}, num_steps=5),
    "successive_halving": lambda workload: lrx.successive_halving(workload, sgd, {"lr": [0.1]}, num_steps=9),
    "range_test": lambda workload: lrx.range_test(workload, lrx.sgd),
    "halve_until_trains": lambda workload: lrx.halve_until_trains(workload, lrx.sgd, start_rate=0.1),
    "optuna_objective": lambda workload: lrx.optuna_objective(workload, sgd, {"lr": uniform(0.0, 1.0)}, num_steps=5),
    "select": lambda workload: lrx.select(workload, num_steps=400),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_takes_a_workload_and_says_how_to_make_one(tool: str) -> None:
    way_out = r"lrx\.Workload\.from_functions\(loss_fn, init_fn, batches\)\.$"
    with pytest.raises(
        TypeError, match=r"^workload must be an lrx\.Workload, got the function 'squares': wrap it, " + way_out
    ):
        TOOLS[tool](squares)
    with pytest.raises(TypeError, match=r"^workload must be an lrx\.Workload, got workload=None: give " + way_out):
        TOOLS[tool](None)
