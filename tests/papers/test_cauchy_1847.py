"""Fixed steps: each verdict can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
from reproductions import Tiny, failing, published

from lrx.papers import cauchy_1847

TINY = Tiny(cauchy_1847.SCALES["demo"].size, constants={"HORIZONS": (100, 1000), "SADDLE_STEPS": 1500}, holds=True)


def test_every_verdict_on_fixed_steps_can_fail() -> None:
    result = published("cauchy_1847")
    steps = np.asarray(result.curves["steps"], np.float64)

    def wrong(curves: dict[str, Any]) -> None:
        curves["gaps"]["1 / L"] = [(0.6 * steps**-0.8).tolist()]
        curves["growth"] = {"1.9 / L": [1.01], "2.1 / L": [9.0]}
        curves["mean_gap"] = [[1.6 * np.sqrt(2) * horizon**-0.5] for horizon in curves["horizons"]]
        curves["escape"] = {"0.01": [100.0], "0.03": [110.0], "0.1": [120.0]}
        curves["without_noise"] = 1e-3

    assert failing(result, wrong) == [0, 1, 2, 3, 4, 6, 7, 8]

    def steeper(curves: dict[str, Any]) -> None:
        curves["mean_gap"] = [[horizon**-0.7] for horizon in curves["horizons"]]

    assert 5 in failing(result, steeper)
