"""What a bracket has found and spent so far, and how that is kept in a checkpoint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrx.tuning.range_test_result import RangeTest
from lrx.tuning.selection.result import RunRecord


@dataclasses.dataclass(eq=False)
class Candidate:
    """A method at a rate, and how far it has been trained."""

    method: str
    rate: float
    done: int = 0  # steps of the state that is kept
    runs: Any = ()  # `lrx.training.many.Runs` after these; () if nothing is kept
    length: int = 0  # of the run that value, loss and learnt are of
    value: float = math.inf
    loss: float = math.inf
    learnt: bool = False

    @property
    def name(self) -> str:
        """The method and its rate, in words."""
        return f"{self.method} at {self.rate:.9g}"


@dataclasses.dataclass(eq=False)
class BracketState:
    """All that the next round needs."""

    spent: int = 0  # steps
    range_tests: dict[str, RangeTest] = dataclasses.field(default_factory=dict)  # as in `Selection`
    candidates: list[Candidate] = dataclasses.field(default_factory=list)  # the runs of the latest round
    records: list[RunRecord] = dataclasses.field(default_factory=list)

    def to_arrays(self, methods: Sequence[str]) -> dict[str, np.ndarray]:
        """Return everything but the states of the runs as arrays.

        Args:
          methods: the portfolio's names, by whose places methods are kept.
        """
        places = {name: place for place, name in enumerate(methods)}
        arrays = {
            "spent": np.array([self.spent]),
            "records": np.array([(places[each.method], *each[1:]) for each in self.records], np.float64),
            "candidates": np.array(
                [
                    (places[each.method], each.rate, each.done, each.length, each.value, each.loss, each.learnt)
                    for each in self.candidates
                ],
                np.float64,
            ),
        }
        for name, test in self.range_tests.items():
            arrays |= {f"{places[name]}/{field}": values for field, values in test.to_arrays().items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], methods: Sequence[str]) -> BracketState:
        """Build a state from what `to_arrays` returned; its candidates have no `runs`."""
        tests: dict[str, dict[str, np.ndarray]] = {}
        for key, values in arrays.items():
            place, _, field = key.partition("/")
            if field:
                tests.setdefault(methods[int(place)], {})[field] = values
        records = [
            RunRecord(
                methods[int(method)],
                float(rate),
                int(number),
                int(steps),
                float(value),
                float(loss),
                int(made),
                bool(learnt),
            )
            for method, rate, number, steps, value, loss, made, learnt in arrays.get("records", ())
        ]
        candidates = [
            Candidate(
                methods[int(method)], float(rate), int(done), (), int(length), float(value), float(loss), bool(learnt)
            )
            for method, rate, done, length, value, loss, learnt in arrays.get("candidates", ())
        ]
        in_order = {name: RangeTest.from_arrays(tests[name]) for name in methods if name in tests}
        return cls(int(arrays["spent"][0]), in_order, candidates, records)
