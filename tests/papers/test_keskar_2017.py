"""Keskar et al. (2017): the line passes through both minima, and verdicts can fail."""

from __future__ import annotations

import numpy as np
from reproductions import Tiny, failing

from lrx.papers import keskar_2017 as paper
from lrx.papers.small_images import Images
from lrx.records import Result

TINY = Tiny(paper.Size(Images("perceptron", 40, 20, 2, (8,)), 4, 20, (2, 4), 2.3), "digits", {"ITERATIONS": 2})


def made_up(*, box: float = 3.0, end: float = 2.0, equal: float = 1.5, side: float = 1.0, gap: float = 0.5) -> Result:
    """A result whose large batches are sharper and worse by these factors and points."""
    ones = np.ones(3)

    def minimum(box: float, end: float, equal: float, error: float) -> dict[str, list[float]]:
        values = {"training_loss": 0.01, "error": error, "eigenvalue": end, "eigenvalue_at_equal_loss": equal}
        values |= {f"rise_{each:g}": box for each in paper.BOXES}
        return {name: (value * ones).tolist() for name, value in values.items()}

    alpha = np.linspace(-1, 2, 13)
    loss = 0.01 + np.where(alpha > 0.5, (1 + side) * (alpha - 1) ** 2, alpha**2)
    curves = {
        "minima": {"small": minimum(1.0, 1.0, 1.0, 3.0), "large": minimum(box, end, equal, 3.0 + gap)},
        "alpha": alpha.tolist(),
        "line": np.tile(loss, (3, 2, 1)).tolist(),
    }
    settings = {"equal": 0.1, "small": 8, "large": 144}
    return Result("keskar_2017", "cpu", "digits", [0, 1, 2], settings, curves, 1.0)


def test_sharper_and_worse_large_batches_make_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(box=0.5)) == [0, 1]
    assert failing(made_up(end=0.5)) == [2]
    assert failing(made_up(equal=0.5)) == [3]
    assert failing(made_up(side=-0.5)) == [4]
    assert failing(made_up(gap=0.001)) == [5]


def test_the_line_starts_at_small_and_passes_large_batches() -> None:
    def full(point: np.ndarray) -> float:
        return float(point)

    found = paper.line(np.float64(2.0), np.float64(5.0), full, lambda point: {"loss": -point})
    at = [int(np.argmin(np.abs(alpha - paper.LINE))) for alpha in (0.0, 1.0)]
    np.testing.assert_allclose(found[:, at], [[2.0, 5.0], [-2.0, -5.0]])


def test_figures_have_a_line_for_every_seed() -> None:
    figure = paper.plot(made_up())["sharp_minima"]
    assert sum(len(np.atleast_1d(line.get_xdata())) > 2 for line in figure.axes[0].get_lines()) == 3 * 2
