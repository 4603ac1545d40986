"""What a selection has observed as arrays, for a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from lrx.tuning.range_test_result import RangeTest
from lrx.tuning.selection.policy import Observation, Observed, RangeProbe, Run, Scores, Training

# The columns of a run: round, method, rate, seed, length, stop, start, keep, final loss, initial loss, its noise,
# diverged, seconds and steps of a bin; of a range test: method, seed, steps, first and last rate, extend.


def to_arrays(observed: Observed) -> dict[str, np.ndarray]:
    """Return the range tests and the runs as arrays; methods are written as their places in the portfolio."""
    places = {name: place for place, name in enumerate(observed.portfolio)}
    arrays: dict[str, np.ndarray] = {
        "evaluation_steps": np.array([observed.evaluation_steps.get(name, 0.0) for name in observed.portfolio]),
        "step_costs": np.array([observed.step_costs.get(name, 0.0) for name in observed.portfolio]),
    }
    rows: list[tuple[float, ...]] = []
    scores: list[tuple[float, ...]] = []
    for number, round_ in enumerate(observed.rounds):
        for each in round_:
            (method, *run), *request, _ = each.training
            scores += [(len(rows), step, *found) for step, found in each.scores.items()]
            numbers = each.final_loss, each.initial_loss, each.noise, each.diverged, each.seconds, each.bin_steps
            rows.append((number, places[method], *run, *request, *numbers))
    if rows:
        arrays["runs"] = np.array(rows, np.float64)
        arrays["losses"] = np.stack([each.losses for each in observed.runs])
    if scores:
        arrays["scores"] = np.array(scores, np.float64)
    for number, (probe, test) in enumerate(observed.range_tests):
        arrays[f"{number}/probe"] = np.array([places[probe.method], *probe[1:]], np.float64)
        arrays |= {f"{number}/{field}": values for field, values in test.to_arrays().items()}
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray], beginning: Observed) -> Observed:
    """Return what `to_arrays` was given.

    Args:
      arrays: what it returned.
      beginning: what is known before the first request.
    """
    methods = list(beginning.portfolio)
    scores: dict[int, dict[int, Scores]] = {}
    for row, step, *found in arrays.get("scores", ()):
        scores.setdefault(int(row), {})[int(step)] = Scores(*map(float, found))
    rounds: dict[int, list[Observation]] = {}
    for row, values in enumerate(arrays.get("runs", ())):
        number, method, rate, seed, *steps, final, initial, noise, diverged, seconds, bin_steps = values.tolist()
        length, stop, start, keep = map(int, steps)
        found = scores.get(row, {})
        training = Training(Run(methods[int(method)], rate, int(seed), length), stop, start, keep, tuple(found))
        rounds.setdefault(int(number), []).append(
            Observation(
                training, arrays["losses"][row], int(bin_steps), found, final, initial, bool(diverged), seconds, noise
            )
        )
    tests: dict[int, dict[str, np.ndarray]] = {}
    for key, values in arrays.items():
        number, _, field = key.partition("/")
        if field:
            tests.setdefault(int(number), {})[field] = values
    range_tests = []
    for _, fields in sorted(tests.items()):
        method, seed, num_steps, low, high, extend = fields.pop("probe").tolist()
        probe = RangeProbe(methods[int(method)], int(seed), int(num_steps), low, high, bool(extend))
        range_tests.append((probe, RangeTest.from_arrays(fields)))
    return dataclasses.replace(
        beginning,
        range_tests=tuple(range_tests),
        rounds=tuple(map(tuple, rounds.values())),
        evaluation_steps=_by_method(methods, arrays["evaluation_steps"]),
        step_costs=_by_method(methods, arrays["step_costs"]),
    )


def _by_method(methods: Sequence[str], values: np.ndarray) -> dict[str, float]:
    """Return method to value, without zeros, which stand for what is missing."""
    return {name: value for name, value in zip(methods, values.tolist(), strict=True) if value}
