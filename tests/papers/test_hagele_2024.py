"""Hägele et al. (2024): branches share their stable run, and verdicts can fail."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from reproductions import Tiny, failing

from lrx.papers import hagele_2024 as paper
from lrx.records import Result

TINY = Tiny(paper.Size("n-gram", (20,), (0.02, 0.04), 20))
RATES = [0.02, 0.04, 0.08]


def arm(loss: float, best: int = 1, rates: list[float] = RATES) -> dict[str, Any]:
    """An arm whose loss at the end is `loss` at its best rate, and 0.2 more at the others."""
    seeds = np.array([-1e-3, 0.0, 1e-3])
    final = [(loss + seeds + (0.2 if place != best else 0.0)).tolist() for place in range(len(rates))]
    curve = {"loss": [[loss + 1, value] for value in final[best]]}
    return {"rates": rates, "final_loss": final, "best": best, "evaluation_steps": [50, 100], "evaluations": curve}


def made_up(
    *, linear: float = 0.0, sqrt: float = -0.01, short: float = 0.1, long: float = 0.0, best: int = 1
) -> Result:
    """A result in which cosine ends at 2, and a constant rate at 2.3."""
    lengths = {
        steps: {
            "arms": {
                "cosine": arm(2.0),
                "constant": arm(2.3, best),
                "WSD, linear": arm(2.0 + linear),
                "WSD, 1 - sqrt": arm(2.0 + linear + sqrt),
            }
        }
        for steps in ("100", "400")
    }
    after = {"0.05": short, "0.1": 0.05, "0.2": 0.0, "0.4": long}
    cooldowns = {
        kind: {part: arm(2.0 + more, 0, [0.04]) for part, more in after.items()}
        for kind in ("WSD, linear", "WSD, 1 - sqrt")
    }
    curves = {"lengths": lengths, "cooldowns": cooldowns, "peak": 0.04}
    return Result("hagele_2024", "cpu", "", [0, 1, 2], {}, curves, 1.0)


def test_cooldowns_like_cosines_make_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(linear=0.1)) == [0, 1, 3]
    assert failing(made_up(sqrt=0.01)) == [2]
    assert failing(made_up(short=0.28)) == [4]
    assert failing(made_up(long=0.05)) == [5]
    assert failing(made_up(best=2)) == [6]


@pytest.mark.parametrize("kind", [paper.LINEAR, paper.SQRT])
def test_until_its_cooldown_a_run_has_the_rate_of_the_stable_run(kind: str) -> None:
    counts = jnp.arange(101)
    stable = paper.schedule(paper.STABLE, 1000, 10)(counts)
    branch = paper.schedule(kind, 100, 10)(counts)
    np.testing.assert_array_equal(branch[:81], stable[:81])
    assert branch[82] < 1
    assert branch[100] == 0


def test_figures_show_every_length_of_cosines_and_cooldowns() -> None:
    figure = paper.PAPER.draw(made_up())["branches"]
    assert sum(len(line.get_xdata()) > 1 for line in figure.axes[0].get_lines()) == 2 + 2
    labels = [line.get_label() for line in figure.axes[1].get_lines()]
    assert labels == ["constant", "cosine", "WSD, linear", "WSD, 1 - sqrt"]
