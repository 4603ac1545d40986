"""Bergsma et al. (2025): schedules end where they are said to, weights are those of AdamW, verdicts can fail."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from reproductions import Tiny, failing

import lrx
from lrx.papers import bergsma_2025
from lrx.records import Result

TINY = Tiny(bergsma_2025.Size("n-gram", (10, 20), (0.01, 0.1)))


def made_up(*, gain: tuple[float, float] = (0.002, 0.01), best: int = 1, other: float = 0.004) -> Result:
    """A result with two lengths, in which cosine to 10 % loses by `gain`."""

    def arm(loss: float, place: int = 1) -> dict[str, Any]:
        final = [[loss + 0.02 + 1e-4 * seed for seed in range(3)] for _ in range(3)]
        final[place] = [loss + 1e-4 * seed for seed in range(3)]
        evaluations = {"loss": [[value] for value in final[place]]}
        return {"rates": [0.01, 0.03, 0.1], "final_loss": final, "best": place, "evaluations": evaluations}

    lengths = {}
    for number, (steps, more) in enumerate(zip(("100", "1600"), gain, strict=True)):
        arms = {
            "linear to 0": arm(2.0, best if number else 1),
            "linear to 10 %": arm(2.0 + other),
            "cosine to 0": arm(2.0 + other),
            "cosine to 10 %": arm(2.0 * (1 + more)),
        }
        lengths[steps] = {"arms": arms}
    weights = {"steps": [0, 800, 1599], "linear to 0": [0.0, 1e-3, 1e-5], "cosine to 10 %": [0.0, 1e-3, 1e-3]}
    return Result("bergsma_2025", "cpu", "", [0, 1, 2], {}, {"lengths": lengths, "weights": weights}, 1.0)


def test_a_gain_that_grows_makes_every_claim_hold_and_others_fail() -> None:
    assert failing(made_up()) == []
    assert failing(made_up(gain=(-0.02, -0.01))) == [0]
    assert failing(made_up(gain=(0.02, 0.01))) == [1]
    assert failing(made_up(other=-0.01)) == [2, 3]
    assert failing(made_up(best=2)) == [4, 5]  # the best peak moves, to an end of the grid


@pytest.mark.parametrize(("shape", "end"), [("linear to 0", 0.0), ("linear to 10 %", 0.1), ("cosine to 10 %", 0.1)])
def test_schedules_warm_up_and_end_where_they_are_said_to(shape: str, end: float) -> None:
    rates = bergsma_2025.schedule(shape, 2.0, 100)(jnp.arange(101))
    assert rates[0] < 0.21
    assert int(jnp.argmax(rates)) == 10
    np.testing.assert_allclose(rates[jnp.array([10, 100])], [2.0, 2 * end], atol=1e-6)


def test_the_weights_of_updates_are_those_of_adamw() -> None:
    decay, steps = 0.3, 12
    schedule = bergsma_2025.schedule("cosine to 10 %", 0.5, steps)
    weights = bergsma_2025.update_weights(np.asarray(schedule(jnp.arange(steps))), decay)
    tx = lrx.adamw(schedule, b1=0.0, b2=0.0, eps=0.0, weight_decay=decay)  # so an update is the sign of the gradient
    signs = np.random.default_rng(0).choice([-1.0, 1.0], steps)
    theta = jnp.zeros(())
    state = tx.init(theta)
    for sign in signs:
        update, state = tx.update(jnp.float32(-sign), state, theta)
        theta = theta + update
    np.testing.assert_allclose(theta, np.sum(weights * signs) / decay, rtol=1e-5)


def test_figures_show_a_gain_for_each_other_schedule() -> None:
    figure = bergsma_2025.PAPER.draw(made_up())["straight_to_zero"]
    labels = [line.get_label() for line in figure.axes[1].get_lines() if not line.get_label().startswith("_")]
    assert labels == ["linear to 10 %", "cosine to 0", "cosine to 10 %"]
