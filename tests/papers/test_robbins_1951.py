"""Robbins and Monro (1951): the gains of the text, and each verdict can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
from reproductions import Tiny, failing

from lrx.papers import robbins_1951
from lrx.records import Result

TINY = Tiny(robbins_1951.Size(2000), constants={"RUNS": 500}, holds=True)


def test_gains_are_those_of_the_text() -> None:
    n = np.arange(1, 50)
    expected = {"1 / n": 1 / n, "0.2 / n": 0.2 / n, "0.1": np.full(49, 0.1), "0.5 / n^2": 0.5 / n**2}
    for name, gain in robbins_1951.GAINS.items():
        np.testing.assert_allclose(gain(n - 1), expected[name], rtol=1e-5)


def expected_errors(gains: np.ndarray) -> np.ndarray:
    """Return E theta_n^2, which is m_{n+1} = (1 - a_n mu)^2 m_n + a_n^2 for noise of variance 1, after each step."""
    error, found = robbins_1951.START**2, []
    for gain in gains:
        error = (1 - gain * robbins_1951.MU) ** 2 * error + gain**2
        found.append(error)
    return np.array(found)


def test_every_verdict_on_gains_holds_in_expectation_and_can_fail() -> None:
    steps = np.unique(np.geomspace(1, 10_000, 60).astype(int))
    errors = {
        name: 2 * [expected_errors(np.asarray(gain(np.arange(10_000)), np.float64))[steps - 1].tolist()]
        for name, gain in robbins_1951.GAINS.items()
    }
    curves = {"steps": steps.tolist(), "errors": errors}
    result = Result("robbins_1951", "cpu", "", [0, 1], {}, curves, 1.0)
    assert failing(result) == []
    for place, (name, wrong) in enumerate(
        {"1 / n": steps**-0.8, "0.2 / n": steps**-0.55, "0.1": steps**-0.2, "0.5 / n^2": 0.5 + 0 * steps}.items()
    ):

        def change(curves: dict[str, Any], name: str = name, wrong: Any = wrong) -> None:
            curves["errors"][name] = [wrong.tolist(), wrong.tolist()]

        assert failing(result, change) == [place]
