"""Heavy ball: the counter-example of the text, and each verdict can fail."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from reproductions import Tiny, failing, published

from lrx.papers import polyak_1964

TINY = Tiny(polyak_1964.Size((10, 30)), holds=True)


def test_every_verdict_on_heavy_ball_can_fail() -> None:
    result = published("polyak_1964")

    def slower(curves: dict[str, Any]) -> None:
        arms = curves["conditions"]["100"]
        arms["gradient descent"]["factor"] = 3 * [0.965]  # theory: 0.9802
        arms["heavy ball"]["factor"] = 3 * [0.83]  # theory: 0.8182
        arms["heavy ball"]["steps_to_target"] = 3 * [10_000]

    assert failing(result, slower) == [3, 4, 5]

    def other_way_round(curves: dict[str, Any]) -> None:
        example = curves["counter_example"]
        example["heavy ball"], example["gradient descent"] = example["gradient descent"], example["heavy ball"]

    assert failing(result, other_way_round) == [12, 13]


def test_the_counter_example_is_continuous_and_between_its_quadratics() -> None:
    x = jnp.linspace(-3, 4, 7001)
    slopes = np.diff(polyak_1964.counter_example(x)) / np.diff(x)
    assert slopes.min() > 0.9
    assert slopes.max() < 25.1
