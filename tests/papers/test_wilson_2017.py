"""Wilson et al. (2017): the constructed problem is that of section 3.3, and verdicts can fail."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from reproductions import Tiny, failing

from lrx.papers import wilson_2017 as paper
from lrx.papers.residual_networks import Network
from lrx.records import Result
from lrx.workloads.linear import draw_unique_features

TINY = Tiny(
    paper.Size(Network(64, 360, 64, 32, 8), 0, 1, 1, 8),
    "digits",
    {"STEPS": 20, "METHODS": {name: (make, -2.0, -2.0) for name, (make, _, _) in paper.METHODS.items()}},
)


def made_up(
    *,
    sgd: float = 0.0,
    adaptive: float = 25.0,
    fit: float = 0.0,
    gap: float = 0.0,
    rate: float = 0.001,
    apart: float = 0.5,
) -> Result:
    """A result with a gap in the training losses of adaptive methods, and test errors that are apart."""
    seeds = np.array([-1e-4, 0.0, 1e-4])
    problem, arms = {}, {}
    for place, name in enumerate(paper.METHODS):
        is_adaptive = name in paper.ADAPTIVE
        problem[name] = {"loss": [fit] * 3, "error": [adaptive if is_adaptive else sgd] * 3}
        best = (rate if is_adaptive else 0.1) * np.array([0.1, 1.0, 10.0])
        loss = 0.02 + gap * is_adaptive
        error = 5 + apart * place / 4
        arm: dict[str, Any] = {
            "rates": best.tolist(),
            "best": 1,
            "error": [(error + more + seeds).tolist() for more in (3.0, 0.0, 4.0)],
            "evaluation_steps": [50, 100],
            "evaluations": {
                "training_loss": [[1.0, value] for value in loss + seeds],
                "error": [[20.0, value] for value in error + seeds],
            },
        }
        arms[name] = arm
    settings = {"epoch": 10}
    return Result("wilson_2017", "cpu", "digits", [0, 1, 2], settings, {"constructed": problem, "arms": arms}, 1.0)


def test_parity_and_the_theorem_make_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(sgd=25.0)) == [0]
    assert failing(made_up(adaptive=0.0)) == [1]
    assert failing(made_up(fit=0.1)) == [2]
    assert failing(made_up(gap=0.05)) == [3, 4, 5]
    assert failing(made_up(rate=0.01)) == [6]
    assert failing(made_up(apart=3.0)) == [7]


def test_the_solution_proportional_to_signs_fits_every_example_of_the_construction() -> None:
    x, y = draw_unique_features(50, paper.POSITIVE, jax.random.key(1))
    assert set(np.unique(y)) == {-1.0, 1.0}
    np.testing.assert_array_equal(x @ np.sign(x.T @ y), 4 * y)  # the lemma's condition, with c = 4
    assert (x[y > 0, 3:].sum(axis=1) == 1).all()
    assert (x[y < 0, 3:].sum(axis=1) == 5).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "error"), [("SGD", 0.0), ("Adam", 25.0)])
def test_adam_calls_every_new_example_positive_and_sgd_does_not(name: str, error: float) -> None:
    loss, wrong = paper.solve(name, 20, (0, 1))
    assert (loss < 0.01).all()
    np.testing.assert_allclose(wrong, error, atol=1e-3)


def test_figures_show_every_method() -> None:
    figure = paper.PAPER.draw(made_up())["marginal_value"]
    assert len(figure.axes[0].get_lines()) == len(figure.axes[1].get_lines()) == 5
    assert "(25 %)" in figure.axes[2].get_yticklabels()[4].get_text()
