"""Loshchilov and Hutter (2019): both couplings are those of the text, and verdicts can fail."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from reproductions import Tiny, failing

from lrx.papers import loshchilov_2019
from lrx.records import Result

TINY = Tiny(loshchilov_2019.Size(64, (), 1, 3, 32), "digits")


def made_up(*, slope: float = -1.0, gap: float = 0.5, constant: float = 0.6) -> Result:
    """A result whose maps are valleys: of L2 with a slope, of AdamW along both axes."""
    alphas, decays = np.logspace(-4, -1.5, 7), np.logspace(-4.5, -1, 7)
    x, y = np.meshgrid(np.linspace(-1, 1, 7), np.linspace(-1, 1, 7), indexing="ij")
    seeds = np.array([-0.01, 0.0, 0.01])
    valley = {
        "Adam, L2": gap + 3 * (y - slope * x) ** 2 + 0.3 * x**2,
        "AdamW": 3 * y**2 + 3 * x**2,
        "AdamW, times alpha": 3 * (y + x) ** 2 + 0.3 * x**2,
    }
    maps: dict[str, Any] = {
        name: {"alpha": alphas.tolist(), "decay": decays.tolist(), "error": (2 + error[..., None] + seeds).tolist()}
        for name, error in valley.items()
    }
    maps["AdamW, constant"] = {
        "alpha": alphas.tolist(),
        "decay": [1e-3],
        "error": (2 + constant + x[:, :1] ** 2 + seeds).tolist(),
    }
    return Result("loshchilov_2019", "cpu", "mnist", [0, 1, 2], {}, {"maps": maps}, 1.0)


def test_a_separable_map_makes_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(gap=-0.5)) == [0]
    assert failing(made_up(slope=0.0)) == [1]
    assert failing(made_up(constant=-0.1)) == [4]

    def swap(curves: dict[str, Any]) -> None:
        curves["maps"]["AdamW, times alpha"] = curves["maps"]["AdamW"]

    assert failing(made_up(), swap) == [2]

    def raise_(curves: dict[str, Any]) -> None:
        errors = np.asarray(curves["maps"]["AdamW, times alpha"]["error"])
        curves["maps"]["AdamW, times alpha"]["error"] = (errors + 1).tolist()

    assert failing(made_up(), raise_) == [3]


@pytest.mark.parametrize(("name", "shrink"), [("AdamW", 0.1), ("AdamW, times alpha", 0.01 * 0.1), ("Adam, L2", None)])
def test_a_step_without_gradient_shows_the_coupling(name: str, shrink: float | None) -> None:
    alpha, decay = 0.01, 0.1
    tx = loshchilov_2019.METHODS[name](alpha, decay, 100)
    params = jnp.array([2.0])
    updates, _ = tx.update(jnp.zeros(1), tx.init(params), params)
    expected = -alpha if shrink is None else -shrink * params[0]  # Adam makes a full step of any penalty
    np.testing.assert_allclose(updates, [expected], rtol=1e-4)


def test_maps_are_drawn_with_their_best_cells() -> None:
    figure = loshchilov_2019.plot(made_up())["maps"]
    titles = [axes.get_title(loc="left") for axes in figure.axes[:3]]
    assert titles == ["Adam, L2: 2.50 %", "AdamW: 2.00 %", "AdamW, times alpha: 2.00 %"]
    assert len(figure.axes[0].lines[0].get_xdata()) == loshchilov_2019.BEST
