"""Wang and Aitchison (2025): time scales are counted in epochs, and verdicts can fail."""

from __future__ import annotations

import numpy as np
from reproductions import Tiny, failing

from lrx.papers import wang_2025 as paper
from lrx.records import Result

TINY = Tiny(paper.Size((32, 64), 32, 4, (8,), 2, 0.01, (0.1, 1.0), 16), "digits")


def made_up(*, slope: float = 1.0, depth: float = 3.0) -> Result:
    """A result whose errors are valleys over the log of the decay, which fall with the images to a power."""
    decays = np.array([2.0**power for power in range(-6, 5)])
    seeds = np.array([-0.01, 0.0, 0.01])
    sizes = {}
    for number in (500, 1000, 4000):
        best = 1.0 - slope * np.log2(number / 500)
        errors = 10 + depth * (np.log2(decays) - best) ** 2
        sizes[str(number)] = {
            "epochs": (50 / (0.01 * decays * number)).tolist(),
            "error": (errors[:, None] + seeds).tolist(),
            "training_loss": errors[:, None].tolist(),
        }
    return Result("wang_2025", "cpu", "mnist", [0, 1, 2], {}, {"decays": decays.tolist(), "sizes": sizes}, 1.0)


def test_a_decay_that_falls_as_one_over_the_images_makes_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(slope=0.0)) == [0, 1, 2, 3, 4]
    assert failing(made_up(depth=0.001)) != []
    assert failing(made_up(slope=3.0)) == [1, 3, 6]


def test_the_best_decay_is_the_middle_of_the_valley() -> None:
    np.testing.assert_allclose(paper.best_decay(made_up(), "500"), 1.0)
    np.testing.assert_allclose(paper.best_decay(made_up(), "4000"), -2.0)


def test_a_decay_of_another_size_costs_nothing_if_its_epochs_are_kept() -> None:
    np.testing.assert_allclose(paper.penalty(made_up(), "500", "4000", True), 0.0, atol=1e-6)
    assert (paper.penalty(made_up(), "500", "4000", False) > 0.5).all()


def test_figures_have_a_line_a_size() -> None:
    figure = paper.plot(made_up())["time_scale"]
    assert len(figure.axes[0].get_lines()) == len(figure.axes[1].get_lines()) == 3
