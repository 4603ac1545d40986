"""Stored curves that are made up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lrx.benchmarks.selection.curves import BINS, CHOOSING, HELD_OUT, PARTS, MethodCurves, TaskCurves


def curves_of(
    finals: Mapping[str, Mapping[float, tuple[float, float]]],
    *,
    num_steps: int = 270,
    mode: str = "min",
    initial: float = 1.0,
) -> TaskCurves:
    """Curves whose evaluations go linearly from the initial to the final value.

    Args:
      finals: method to rate to the final metric with the choosing and with the held-out seeds; infinite if diverged.
      num_steps: length of a run.
      mode: "min" or "max".
      initial: metric of the initial parameters.
    """
    methods = {}
    for name, by_rate in finals.items():
        chosen, judged = np.array(list(by_rate.values()), np.float64).T
        known = np.where(np.isfinite(chosen), chosen, np.nan)
        path = initial + (known[:, None, None] - initial) * np.array(PARTS)
        evaluations = np.repeat(path, len(CHOOSING), axis=1).astype(np.float32)
        held_out = np.repeat(np.where(np.isfinite(judged), judged, np.nan)[:, None], len(HELD_OUT), axis=1)
        methods[name] = MethodCurves(
            np.array(list(by_rate), np.float32),
            np.repeat(np.repeat(known[:, None, None], len(CHOOSING), axis=1), BINS, axis=2).astype(np.float32),
            {"loss": evaluations},
            {"loss": held_out.astype(np.float32)},
            np.ones(len(chosen), bool),
            0.01,
        )
    first = np.full(len(CHOOSING), initial, np.float32)
    return TaskCurves("made up", num_steps, 1, "loss", mode, "convex", "0", {"loss": first}, methods)
