"""Li et al. (2018): rises and concavities are those of known surfaces, and verdicts can fail."""

from __future__ import annotations

import numpy as np
from reproductions import Tiny, failing

from lrx.papers import li_2018 as paper
from lrx.papers.residual_networks import Network
from lrx.records import Result

ONE_NETWORK = {label: (False, True, *options) for label, (_, _, *options) in paper.ARMS.items()}  # compiles once
TINY = Tiny(paper.Size(Network(40, 20, 20, 20, 2), 4, 6, 3, 1e-3, 5), "digits", {"ARMS": ONE_NETWORK}, kept=True)
SIDE = np.linspace(-1, 1, 11)
DISTANCES = np.hypot(SIDE[:, None], SIDE[None, :])
BOWL, SADDLE = DISTANCES**2, SIDE[:, None] ** 2 - SIDE[None, :] ** 2


def made_up(
    *,
    deep: float = 1.0,
    plain_shallow: float = 2.0,
    plain_deep: float = 20.0,
    saddle: float = 30.0,
    error: float = 10.0,
    small: float = 2.0,
    small_no_decay: float = 3.0,
    no_decay: float = 0.5,
    no_decay_plane: float = 1.0,
) -> Result:
    """A result of bowls of these heights; the deep network without shortcuts adds a saddle."""
    heights = (1.0, deep, plain_shallow, plain_deep, small, no_decay_plane, small_no_decay)
    errors = (1.0, 1.1, 3.0, error, 2.5, 0.9, 4.0)
    minima = {}
    for label, height, wrong in zip(paper.ARMS, heights, errors, strict=True):
        plane = 0.1 + height * BOWL + (saddle * SADDLE if label == paper.PLAIN_DEEP else 0)
        raw = 0.1 + (no_decay if label == paper.NO_DECAY else 1.0) * BOWL
        minima[label] = {
            "training_loss": [0.1] * 3,
            "training_error": [0.0] * 3,
            "error": [wrong] * 3,
            "plane": np.stack([plane] * 3).tolist(),
            "unnormalized": np.stack([raw] * 3).tolist(),
        }
    settings = {"shallow": 8, "deep": 32}
    curves = {"side": SIDE.tolist(), "minima": minima}
    return Result("li_2018", "demo", "digits", [0, 1, 2], settings, curves, 1.0)


def test_sharp_and_concave_planes_without_shortcuts_make_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(saddle=0.0)) == [3]
    assert failing(made_up(deep=3.0)) == [2]
    assert failing(made_up(plain_shallow=11.0)) == [1]
    assert failing(made_up(deep=12.0)) == [0, 2]
    assert failing(made_up(error=1.0)) == [4, 5]
    assert failing(made_up(small=0.9)) == [6]
    assert failing(made_up(small_no_decay=0.4, no_decay_plane=0.5)) == [5, 7]
    assert failing(made_up(no_decay=1.1)) == [8]


def test_the_rise_is_the_median_near_the_minimum() -> None:
    near = (DISTANCES > 0) & (DISTANCES <= 0.5)
    np.testing.assert_allclose(paper.rise(made_up(deep=3.0), paper.DEEP), 3 * np.median(BOWL[near]), rtol=1e-6)


def test_figures_show_four_planes_and_every_minimum() -> None:
    figures = paper.plot(made_up())
    assert len(figures["landscapes"].axes) == 4 + 1
    assert len(figures["sharpness"].axes[2].get_lines()) == len(paper.ARMS)
