"""Robbins and Monro (1951): the gains of the text, and each verdict can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
from reproductions import Tiny, failing, published

from lrx.papers import robbins_1951

TINY = Tiny(robbins_1951.Size(2000), constants={"RUNS": 500}, holds=True)


def test_gains_are_those_of_the_text() -> None:
    n = np.arange(1, 50)
    expected = {"1 / n": 1 / n, "0.2 / n": 0.2 / n, "0.1": np.full(49, 0.1), "0.5 / n^2": 0.5 / n**2}
    for name, gain in robbins_1951.GAINS.items():
        np.testing.assert_allclose(gain(n - 1), expected[name], rtol=1e-5)


def test_every_verdict_on_gains_can_fail() -> None:
    result = published("robbins_1951")
    steps = np.asarray(result.curves["steps"], np.float64)
    for place, (name, wrong) in enumerate(
        {"1 / n": steps**-0.8, "0.2 / n": steps**-0.55, "0.1": steps**-0.2, "0.5 / n^2": 0.5 + 0 * steps}.items()
    ):

        def change(curves: dict[str, Any], name: str = name, wrong: Any = wrong) -> None:
            curves["errors"][name] = [wrong.tolist(), wrong.tolist()]

        assert failing(result, change) == [place]
