"""Nesterov's bounds: the worst function of the text, and each verdict can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reproductions import Tiny, failing

from lrx import papers
from lrx.papers import nesterov_1983

TINY = Tiny(nesterov_1983.SCALES["demo"].size, holds=True)


@pytest.mark.slow
def test_every_verdict_on_the_bounds_can_fail(tmp_path: Path) -> None:
    run = nesterov_1983.PAPER.run("demo", seeds=(0, 1))  # the only scale at which a transcription is compared
    result = papers.load_result(run.save(tmp_path / "result.json"))
    k = np.asarray(result.curves["steps"], np.float64)
    distance = result.settings["distance"]

    def above(curves: dict[str, Any]) -> None:
        curves["worst"]["Nesterov"] = (2.1 * distance / (k + 1) ** 2).tolist()

    assert {0, 4, 6} <= set(failing(result, above))

    def below(curves: dict[str, Any]) -> None:
        for name in curves["worst"]:
            curves["worst"][name] = (0.09 * distance / (k + 1) ** 2).tolist()

    assert {1, 2, 3, 5, 6} <= set(failing(result, below))

    def flat(curves: dict[str, Any]) -> None:
        long = np.asarray(curves["quadratic_steps"], np.float64)
        curves["quadratic"] = {"Nesterov": [(long**-1.7).tolist()], "gradient descent": [(long**-1.4).tolist()]}

    assert failing(result, flat) == [7, 8]


def test_the_worst_function_is_that_of_the_text() -> None:
    def f(x: jax.Array) -> jax.Array:
        springs = 0.5 * x[0] ** 2 + 0.5 * jnp.sum((x[:-1] - x[1:]) ** 2) + 0.5 * x[-1] ** 2
        return 0.25 * (springs - x[0])

    x = jax.random.normal(jax.random.key(0), (7,))
    np.testing.assert_allclose(nesterov_1983.worst_gradient(x), jax.grad(f)(x), rtol=1e-5, atol=1e-6)
    solution = 1 - jnp.arange(1, 8.0) / 8
    np.testing.assert_allclose(nesterov_1983.worst_gradient(solution), 0, atol=1e-7)
